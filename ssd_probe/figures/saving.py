"""Figures as files."""

from pathlib import Path

from matplotlib.figure import Figure


def save(fig: Figure, stem: str | Path, caption: str) -> list[Path]:
    """Write `stem`.png (200 dpi), `stem`.pdf and the caption as `stem`.txt; returns the paths.

    No date and no version go into the files: the same data gives the same bytes.
    """
    stem = Path(stem)
    stem.parent.mkdir(parents=True, exist_ok=True)
    # Not with_suffix: it would cut "fig_T0.8" short.
    png, pdf, txt = (stem.with_name(stem.name + end) for end in (".png", ".pdf", ".txt"))
    fig.savefig(png, dpi=200, metadata={"Software": None})
    fig.savefig(pdf, metadata={"CreationDate": None, "Creator": None, "Producer": None})
    txt.write_text(caption.strip() + "\n", encoding="utf-8")
    return [png, pdf, txt]
