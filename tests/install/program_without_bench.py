"""Runs a program that was built without the benchmark: what it can do, and what it says about what it cannot.

The arguments are the program, the folder of a quantized model, and a folder to write into.
"""

from __future__ import annotations

import json
import pathlib
import struct
import subprocess
import sys


def write_float_file(path: pathlib.Path) -> None:
    """A safetensors file with the weights of four experts."""
    values = [float(i % 13) for i in range(4 * 32 * 64)]
    header = json.dumps({"experts.weight": {"dtype": "F32", "shape": [4, 32, 64], "data_offsets": [0, 4 * len(values)]}}).encode()
    path.write_bytes(struct.pack("<Q", len(header)) + header + struct.pack(f"<{len(values)}f", *values))


def main() -> None:
    program, model, folder = sys.argv[1:]
    pathlib.Path(folder).mkdir(parents=True, exist_ok=True)

    def run(*arguments: object, status: int = 0) -> subprocess.CompletedProcess[str]:
        result = subprocess.run([program, *map(str, arguments)], check=False, capture_output=True, text=True)
        assert result.returncode == status, (arguments, result)
        return result

    floats, quantized = pathlib.Path(folder) / "float.safetensors", pathlib.Path(folder) / "quantized.safetensors"
    write_float_file(floats)
    assert json.loads(run("info", "--format", "json").stdout)["version"]
    assert json.loads(run("inspect", model, "--format", "json").stdout)["tensors"]
    run("quantize", floats, quantized, "--force", "--mode", "mxfp4")
    checked = json.loads(run("check", quantized, "--samples", 16, "--format", "json").stdout)
    assert checked["failed"] == 0, checked
    assert checked["compared"] > 0, checked
    for arguments in (["bench"], ["bench", "--suite", "limits", "--list"], ["bench", "--help"], ["bench", "mlx-lm"]):
        message = run(*arguments, status=2).stderr
        assert "was built without the benchmark; configure it with -D GQMM_BUILD_BENCH=ON and build it again" in message, message
    assert "bench" in run("--help").stdout
    print("info, inspect, quantize and check work, and bench says how to build it")


if __name__ == "__main__":
    main()
