"""Measures a layer of experts that are divided over ranks, through gqmm.dispatch.ExpertLayer and gqmm.mpi.

`gqmm bench scale` carries these files and starts them by mpiexec, once for each number of ranks (bench/start.py). Rank 0 reads
one JSON object per line from standard input, passes it on to the others, and writes an answer for each to standard output:

    {"installed": true}        checks what is needed         {"versions": {…}, "mpiexec": path}; also without mpiexec
    {"layer": settings}        makes weights on every rank   {"copies": of the layer}
    {"tokens": T}              makes tokens of all ranks     {}
    {"turn": seconds}          measures for so long          {"seconds", "exchange_seconds", "bytes_per_token", "calls"}

The settings are those of `layer.Settings`. Times are medians in seconds of one call: until the last rank has its result, and
within exchanges, on average over the ranks. One rank also measures plain moe_ffn by turns with the layer, as "alone_seconds". The
answer {"error": "…"} says that a request was refused. After an error on any rank all processes end; what was printed before says
why.
"""
