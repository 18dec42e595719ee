// A text's block of bytes as typed arrays; `views/blocks.py` writes it.

const KINDS = { f4: Float32Array, i4: Int32Array, u2: Uint16Array, u1: Uint8Array };

export function decode(bytes, vocabulary) {
  const aligned = bytes.byteOffset % 4 ? bytes.slice() : bytes;
  const length = new DataView(aligned.buffer, aligned.byteOffset).getUint32(0, true);
  const head = JSON.parse(new TextDecoder().decode(aligned.subarray(4, 4 + length)));
  const arrays = {};
  let at = aligned.byteOffset + 4 + length;
  for (const [name, kind, count] of head.arrays) {
    const array = new KINDS[kind](aligned.buffer, at, count);
    arrays[name] = array;
    at += array.byteLength + ((4 - (array.byteLength % 4)) % 4);
  }
  const side = (prefix) => {
    if (!(prefix + "valid" in arrays)) return null;
    const found = { ranks: head.ranks, vocabulary };
    for (const name of ["logprob", "rank", "log_partition", "entropy", "tail", "ties", "top_ids", "top_logits", "valid"])
      found[name] = arrays[prefix + name];
    return found;
  };
  return { ...head, ...arrays, base: side(""), other: side("other_") };
}
