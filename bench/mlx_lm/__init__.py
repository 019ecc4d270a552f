"""Measures language models through mlx-lm, with MLX's own operators and with gqmm.mlx's.

`gqmm bench mlx-lm` carries these files and starts them as a process of its own (bench/start.py). The process reads one JSON
object per line from standard input, and writes an answer for each to standard output:

    {"installed": true}                  checks what is needed                {"versions": {…}}
    {"model": shape, "dtypes": […]}      makes a model with random weights    {}
    {"case": {job, tokens, requests}}    sets up a case of the model          {"work": {dtype: {…}}}
    {"run": side, "limit": seconds}      a turn of a side of this case        {"seconds": of one call, "other_programs": share}
    {"breakdown": side}                  where the time of the case goes      {"calls", "alone", …} (breakdown.py)
    {"difference": side}                 one token's logits against stock     {"difference": relative}
    {"routing": side}                    experts of decoding steps            {"steps", "experts_hit", "shared_with_step_before"}
    {"tiny_calls": side, "turns": n}   calls on tiny arrays                  {"tiny_calls": […]}

A side is {"who": "gqmm" or "stock", "dtype", "precision", "pack"}. Instead of a turn, {"skipped": reason} says that it would take
longer than the limit. The answer {"error": "…"} says that a request failed. Times are in seconds.

The package must not be called mlx_lm, because `import mlx_lm` would then find it.
"""
