"""The other libraries that `gqmm bench` measures, each in a file of its own.

`gqmm bench` carries these files and starts them as a process of its own (bench/start.py). The process reads one JSON object per
line from standard input, and writes an answer for each to standard output:

    {"case": {...}}   sets up the peers of a case   {"peers": [{"name", "version", "computes", "error", "skipped"}, ...]}
    {"run": "name"}   one repetition of a peer      {"seconds": of one call}

    {"model": {"shape": {...}, "threads": n}}  loads a whole model by llama.cpp  {"version", "formats": of its weights}
    {"model_case": {job, tokens, requests}}    prepares a case of it             {}
    {"model_run": true}                        a turn of this case               {"seconds": of one call}

The answer {"error": "..."} says that the request failed. Weights are random bits, because the speed of none of these libraries
depends on their values.
"""
