"""`python -m mlx_lm` that says in the end how often each product ran in the drop-in and in stock.

To be run as `python -m gqmm.mlx -m mlx_lm_counted …`.
"""

import sys

from mlx_lm.cli import main

if __name__ == "__main__":
    main()
    import gqmm.mlx

    for name, count in gqmm.mlx.status().calls.items():
        print(f"{name} ours={count.ours} stock={count.stock}", file=sys.stderr)
