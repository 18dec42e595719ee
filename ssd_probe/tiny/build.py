"""`make tiny`: rebuild the bundled tokenizer and checkpoint from the domain, in one seeded run.

Corpus programs are drawn from the domain's own distribution and then made noisy: each program
token is replaced with probability `noise` by a token drawn from the programs' unigram
distribution. That gives every lock what a language model's locks have, a tail of distractors
that is wide and thin.
"""

import argparse
import json
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from tqdm import tqdm
from transformers import PreTrainedTokenizerFast, Qwen3Config, Qwen3ForCausalLM

from ssd_probe.tiny import domain

CHECKPOINT = Path(__file__).parent / "checkpoint"
PAD, USER, ASSISTANT, END = "<|pad|>", "<|user|>", "<|assistant|>", "<|end|>"
TEMPLATE = (
    "{% for message in messages %}<|{{ message['role'] }}|>{{ message['content'] }}"
    "{% if message['role'] == 'assistant' %}<|end|>{% endif %}{% endfor %}"
    "{% if add_generation_prompt %}<|assistant|>{% endif %}"
)
IGNORED = -100  # label of tokens without a loss


def build_tokenizer(texts: list[str]) -> PreTrainedTokenizerFast:
    """Byte-level BPE over requests and programs; digits and words are mostly single tokens."""
    core = Tokenizer(models.BPE())
    core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    core.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=1024,
        special_tokens=[PAD, USER, ASSISTANT, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    core.train_from_iterator(texts, trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=core, pad_token=PAD, eos_token=END, model_max_length=512
    )
    tokenizer.add_special_tokens({"additional_special_tokens": [USER, ASSISTANT]})
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def build_model(tokenizer: PreTrainedTokenizerFast) -> Qwen3ForCausalLM:
    config = Qwen3Config(
        vocab_size=len(tokenizer),
        hidden_size=128,
        intermediate_size=384,
        num_hidden_layers=4,
        num_attention_heads=4,
        num_key_value_heads=2,
        head_dim=32,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
    model = Qwen3ForCausalLM(config)
    model.generation_config.pad_token_id = tokenizer.pad_token_id
    return model


def corpus(tokenizer: PreTrainedTokenizerFast, count: int, noise: float, seed: int) -> list:
    """`count` pairs (prompt ids, noisy program ids)."""
    rng = random.Random(seed)
    source = domain.stream("corpus", seed)
    chosen = [next(source) for _ in range(count)]
    requests = tokenizer([f"{USER}{p.request}{ASSISTANT}" for p in chosen])["input_ids"]
    programs = tokenizer([p.program(rng) + END for p in chosen])["input_ids"]
    unigram = [token for ids in programs for token in ids]
    noisy = [
        [rng.choice(unigram) if rng.random() < noise else token for token in ids[:-1]] + ids[-1:]
        for ids in programs
    ]
    return list(zip(requests, noisy, strict=True))


def batches(pairs: list, tokens: int, rng: random.Random) -> Iterator[tuple]:
    """Batches of about `tokens` tokens, alike in length, in random order: (ids, mask, labels)."""
    rng.shuffle(pairs)
    pool = [
        sorted(pairs[i : i + 4096], key=lambda p: len(p[0]) + len(p[1]))
        for i in range(0, len(pairs), 4096)
    ]
    groups = []
    for chunk in pool:
        group: list = []
        for pair in chunk:
            if group and (len(group) + 1) * (len(pair[0]) + len(pair[1])) > tokens:
                groups.append(group)
                group = []
            group.append(pair)
        groups.append(group)
    rng.shuffle(groups)
    for group in groups:
        width = max(len(p) + len(c) for p, c in group)
        ids = torch.zeros(len(group), width, dtype=torch.long)
        labels = torch.full_like(ids, IGNORED)
        mask = torch.zeros_like(ids)
        for row, (prompt, program) in enumerate(group):
            end = len(prompt) + len(program)
            ids[row, :end] = torch.tensor(prompt + program)
            labels[row, len(prompt) : end] = ids[row, len(prompt) : end]
            mask[row, :end] = 1
        yield ids, mask, labels


def optimizers(model: Qwen3ForCausalLM, args: argparse.Namespace) -> list[torch.optim.Optimizer]:
    """Muon on the matrices of the blocks, AdamW on embeddings and norms."""
    matrices = [p for n, p in model.named_parameters() if p.ndim == 2 and "embed" not in n]
    rest = [p for n, p in model.named_parameters() if p.ndim < 2 or "embed" in n]
    return [
        torch.optim.Muon(matrices, lr=args.muon_lr, weight_decay=0.0),
        torch.optim.AdamW(rest, lr=args.adam_lr, betas=(0.9, 0.95), weight_decay=0.0),
    ]


def schedule(fraction: float) -> float:
    """Warm up over 2 %, hold, then fall linearly to zero over the last 40 %."""
    return min(fraction / 0.02, 1.0, max(0.0, (1 - fraction) / 0.4))


def train(model: Qwen3ForCausalLM, pairs: list, args: argparse.Namespace) -> float:
    """One pass over the corpus; returns the mean loss of the last tenth, in nats a token."""
    groups = list(batches(pairs, args.batch_tokens, random.Random(args.seed)))
    opts = optimizers(model, args)
    base_lrs = [opt.param_groups[0]["lr"] for opt in opts]
    model.train()
    losses = []
    bar = tqdm(groups, disable=None)
    for step, (ids, mask, labels) in enumerate(bar):
        for opt, lr in zip(opts, base_lrs, strict=True):
            opt.param_groups[0]["lr"] = lr * schedule(step / len(groups))
        loss = model(input_ids=ids, attention_mask=mask, labels=labels, use_cache=False).loss
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for opt in opts:
            opt.step()
            opt.zero_grad()
        losses.append(loss.item())
        if step % 20 == 0:
            recent = losses[-20:]
            bar.set_postfix(loss=f"{sum(recent) / len(recent):.4f}")
            if args.log:
                print(step, len(groups), f"{sum(recent) / len(recent):.4f}", flush=True)
    tail = losses[-max(1, math.ceil(len(losses) / 10)) :]
    return sum(tail) / len(tail)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=CHECKPOINT)
    parser.add_argument("--programs", type=int, default=130_000)
    parser.add_argument("--noise", type=float, default=0.01)
    parser.add_argument("--batch-tokens", type=int, default=6_000)
    parser.add_argument("--muon-lr", type=float, default=0.02)
    parser.add_argument("--adam-lr", type=float, default=3e-3)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", action="store_true")
    args = parser.parse_args()

    started = time.time()
    torch.manual_seed(args.seed)
    sample = domain.problems("corpus", 6_000)
    rng = random.Random(args.seed)
    tokenizer = build_tokenizer([t for p in sample for t in (p.request, p.program(rng))])
    model = build_model(tokenizer)
    pairs = corpus(tokenizer, args.programs, args.noise, args.seed)
    loss = train(model, pairs, args)
    model.save_pretrained(args.out)
    tokenizer.save_pretrained(args.out)
    record = {
        "seed": args.seed,
        "programs": args.programs,
        "noise": args.noise,
        "parameters": model.num_parameters(),
        "final_loss": round(loss, 4),
        "minutes": round((time.time() - started) / 60, 1),
        "torch": torch.__version__,
    }
    (args.out / "build.json").write_text(json.dumps(record, indent=2) + "\n")
    print(json.dumps(record))


if __name__ == "__main__":
    main()
