"""What compressing a Llama with samples takes on a device, by counts: a prediction, as a table.

    count_walk.py [--samples 512] [--length 2048]

w4g128 by GPTQ, true sequential, bf16, Llama-3-8B by default. Rates are those one may expect of an
H200; the counts are those of src/engine/walk/*.c: for each site a run of the block up to it, its
Gram matrix (lower triangle), one factor, a sweep and three products for each layer to measure it.
"""
import argparse

BF16, F32, COPY = 0.6 * 990e12, 0.75 * 67e12, 4.3e12  # products; bytes a second
FACTOR = 67e12 / 6
LINK, FILE = 50e9, 10e9  # to the host; from and to the page cache
BATCH = 2048  # tokens
PANEL, WAVE = 128, 132 * 32  # columns; rows that a device sweeps at once
COLUMNS, LAUNCHES = 16e-6, 8 * 4e-6  # seconds of a panel: its columns in turn; what goes with it


def main():
    p = argparse.ArgumentParser(description=__doc__)
    for name, value in (("samples", 512), ("length", 2048), ("hidden", 4096), ("ffn", 14336),
                        ("kv", 1024), ("layers", 32)):
        p.add_argument(f"--{name}", type=int, default=value)
    a = p.parse_args()
    d, f, tokens, L = a.hidden, a.ffn, a.samples * a.length, a.layers
    # A layer is two blocks: inputs of each site, rows of each of its weights.
    blocks = [[(d, [d, a.kv, a.kv]), (d, [d])], [(d, [f, f]), (f, [d])]]
    sites = blocks[0] + blocks[1]
    attention = 2 * tokens * a.length * d  # both products, under the diagonal only
    runs_attention = 2  # up to the site behind it, and to what the block gives
    to_second = sum(k * sum(rows) for k, rows in (block[0] for block in blocks))
    whole = [sum(k * sum(rows) for k, rows in block) for block in blocks]
    forward = 2 * tokens * (to_second + whole[0] + whole[1] * (L - 1) / L)
    gram = sum(tokens * k * (k + 256) for k, _ in sites)
    factor = sum(2 / 3 * k ** 3 for k, _ in sites)
    panels = sum(k / PANEL * len(rows) for k, rows in sites)
    sweeping = sum(k / PANEL * (COLUMNS * -(-r // WAVE) + LAUNCHES) for k, rows in sites
                   for r in rows)
    sums = sum(k * k * 4 for k, _ in sites) * tokens / BATCH  # half of it, read and written
    area = sum(k * sum(rows) for k, rows in sites)  # weights of a block
    products = sum(k * k * sum(rows) for k, rows in sites)
    state = tokens * d * 2
    saving = state * (1 / LINK + 1 / FILE)  # beside the run that makes them
    making = [2 * tokens * whole[0] / BF16 + attention / (0.35 * 990e12),
              2 * tokens * whole[1] / BF16]
    touched = 2 * tokens * (8 * d + 3 * f) * 2  # of activations, by what is no product, in all runs
    rows = [
        ("forward products", f"{forward * L / 1e15:.1f} PFLOP bf16", forward / BF16),
        ("attention", f"{attention * runs_attention * L / 1e15:.2f} PFLOP bf16, 35 % of the peak",
         attention * runs_attention / (0.35 * 990e12)),
        ("norms, rotary, SiLU, sums", f"{touched * L / 1e12:.1f} TB", touched / COPY),
        ("Gram matrices", f"{gram * L / 1e15:.1f} PFLOP bf16, sums in f32", gram / BF16),
        ("their sums, once a batch", f"{sums * L / 1e12:.1f} TB", sums / COPY),
        ("factors", f"{factor * L / 1e15:.2f} PFLOP f32", factor / FACTOR),
        ("sweeps, products", f"{products * L / 1e15:.2f} PFLOP f32", products / F32),
        ("sweeps, panels", f"{panels * L:.0f} panels, {PANEL} columns in turn", sweeping),
        ("measuring errors", f"{6 * products * L / 1e15:.2f} PFLOP f32", 6 * products / F32),
        ("hidden states, longer to the files than made", f"{state * (2 * L - 1) / 1e9:.0f} GB",
         sum(max(0, saving - run) for run in making)),
        ("weights in, results out", f"{area * L * 3 / 1e9:.0f} GB",
         area * (2 * 2 + 0.6 + 1) / FILE),
    ]
    total = sum(seconds for _, _, seconds in rows) * L
    print("| phase | counted | s | share |\n|---|---|---|---|")
    for name, counted, seconds in rows:
        print(f"| {name} | {counted} | {seconds * L:.1f} | {seconds * L / total:.0%} |")
    print(f"| **all** | | **{total:.0f}** | |")
    read = state * 3 * (2 * L - 1)
    slow = forward + gram + attention * runs_attention
    print(f"\nhidden states read back from the files instead, {read / 1e12:.2f} TB: "
          f"{read * (1 / LINK + 1 / FILE):.0f} s more\n"
          f"products of inputs in f32 instead: {slow * L / F32:.0f} s for them")


main()
