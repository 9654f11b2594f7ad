"""Our GGUF export beside llama.cpp's own converter, on one model of random weights: CPU seconds and peak memory, in one run.

    python bench/publish/export.py FOLDER [--shape 1.5b|0.5b] [--rounds 3]

FOLDER takes the model (3 GB for 1.5b, bf16) and both files; all of it is removed at the end. Memory is what a process holds beyond
mapped files (RssAnon), looked at every 5 ms; it is compared with the largest tensor, and so is what importing the libraries takes.
Needs `make setup` (llama.cpp's converter and the real Qwen 2 vocabulary lie in .wheelhouse).
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.llama_source import llama_source, write_real_tokenizer

SHAPES = {
    "1.5b": {"hidden_size": 1536, "intermediate_size": 8960, "num_hidden_layers": 28, "num_attention_heads": 12, "num_key_value_heads": 2},
    "0.5b": {"hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24, "num_attention_heads": 14, "num_key_value_heads": 2},
}
"""Qwen 2.5's; tied embeddings, biases on q, k and v."""
OURS = (
    "import sys; from pathlib import Path; from forge.phases.quantize.gguf_export import export_f16\n"
    "export_f16(Path(sys.argv[1]), Path(sys.argv[2]), name='bench', license='')"
)
IDLE = "import numpy, gguf; from forge.phases.quantize import gguf_export"


def main() -> None:
    """Make the model, export it both ways, print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--shape", choices=sorted(SHAPES), default="1.5b")
    parser.add_argument("--rounds", type=int, default=3)
    told = parser.parse_args()
    folder: Path = told.folder / "bench-export"
    shutil.rmtree(folder, ignore_errors=True)
    try:
        largest = make_model(folder / "model", SHAPES[told.shape])
        compare(folder, largest, told.rounds)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def compare(folder: Path, largest: int, rounds: int) -> None:
    """Both exports in turn, so that a busy moment meets both; the best of each counts."""
    commands = {
        "ours": [sys.executable, "-c", OURS, str(folder / "model"), str(folder / "ours.gguf")],
        "official": [
            sys.executable, str(llama_source() / "convert_hf_to_gguf.py"), str(folder / "model"), "--outfile", str(folder / "official.gguf"),
            "--outtype", "f16",
        ],
    }
    idle = measure([sys.executable, "-c", IDLE])[2]
    best: dict[str, tuple[float, float, int]] = {}
    for _ in range(rounds):
        for who, command in commands.items():
            found = measure(command)
            best[who] = min(best.get(who, found), found)
            print(f"{who:9} {found[0]:7.1f} CPU s {found[1]:7.1f} s   {found[2] / 1e6:8.0f} MB", flush=True)
    ours, theirs = best["ours"], best["official"]
    print(f"CPU seconds, ours over official: {ours[0] / theirs[0]:.2f} ({ours[0]:.1f} / {theirs[0]:.1f})")
    print(f"largest tensor {largest / 1e6:.0f} MB; imports alone {idle / 1e6:.0f} MB")
    for who, found in best.items():
        print(f"{who}: peak beyond mapped files {found[2] / 1e6:.0f} MB = {found[2] / largest:.2f} x the largest tensor")
    print("tensors are equal" if same_tensors(folder) else "TENSORS DIFFER")


def measure(command: list[str]) -> tuple[float, float, int]:
    """(CPU seconds, seconds, most bytes beyond mapped files) of a command."""
    started = time.monotonic()
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, env={**os.environ, "OMP_NUM_THREADS": "1"})
    most = 0
    while True:
        done, status, usage = os.wait4(process.pid, os.WNOHANG)
        if done:
            break
        most = max(most, anonymous_bytes(process.pid))
        time.sleep(0.005)
    if status:
        assert process.stderr is not None
        raise SystemExit(process.stderr.read().decode(errors="replace")[-2000:])
    return usage.ru_utime + usage.ru_stime, time.monotonic() - started, most


def anonymous_bytes(pid: int) -> int:
    """Memory of a process that no file backs."""
    try:
        text = Path(f"/proc/{pid}/status").read_text(encoding="ascii")
    except OSError:
        return 0
    return next((int(line.split()[1]) * 1024 for line in text.splitlines() if line.startswith("RssAnon")), 0)


def make_model(folder: Path, shape: dict[str, int]) -> int:
    """Random bf16 weights in the shape of Qwen 2.5 with its real vocabulary; the bytes of the largest tensor."""
    import numpy as np

    vocab = write_real_tokenizer(folder, "qwen2")
    config = {
        **shape, "architectures": ["Qwen2ForCausalLM"], "model_type": "qwen2", "vocab_size": vocab, "max_position_embeddings": 32768, "hidden_act": "silu",
        "rms_norm_eps": 1e-6, "rope_theta": 1000000.0, "tie_word_embeddings": True, "eos_token_id": 151645, "bos_token_id": 151643, "use_sliding_window": False,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    tensors = tensor_shapes(shape, vocab)
    header, offset = {}, 0
    for name, dims in tensors.items():
        size = 2 * int(np.prod(dims))
        header[name] = {"dtype": "BF16", "shape": dims, "data_offsets": [offset, offset + size]}
        offset += size
    text = json.dumps(header).encode()
    text += b" " * (-len(text) % 8)
    generator = np.random.default_rng(7)
    # One block of random values again and again: making a billion of them would take longer than the exports.
    block = (generator.standard_normal(1 << 22).astype(np.float32) * 0.02).view(np.uint32) >> 16
    data = block.astype(np.uint16).tobytes()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        while offset > 0:
            file.write(data[: min(len(data), offset)])
            offset -= len(data)
    return max(2 * int(np.prod(dims)) for dims in tensors.values())


def tensor_shapes(shape: dict[str, int], vocab: int) -> dict[str, list[int]]:
    """Names and shapes as transformers has them."""
    hidden, inner = shape["hidden_size"], shape["intermediate_size"]
    keys = hidden // shape["num_attention_heads"] * shape["num_key_value_heads"]
    found = {"model.embed_tokens.weight": [vocab, hidden], "model.norm.weight": [hidden]}
    for layer in range(shape["num_hidden_layers"]):
        parts = {
            "self_attn.q_proj.weight": [hidden, hidden], "self_attn.q_proj.bias": [hidden], "self_attn.k_proj.weight": [keys, hidden],
            "self_attn.k_proj.bias": [keys], "self_attn.v_proj.weight": [keys, hidden], "self_attn.v_proj.bias": [keys],
            "self_attn.o_proj.weight": [hidden, hidden], "mlp.gate_proj.weight": [inner, hidden], "mlp.up_proj.weight": [inner, hidden],
            "mlp.down_proj.weight": [hidden, inner], "input_layernorm.weight": [hidden], "post_attention_layernorm.weight": [hidden],
        }
        found |= {f"model.layers.{layer}.{name}": dims for name, dims in parts.items()}
    return found


def same_tensors(folder: Path) -> bool:
    """True when both files hold the same tensors, byte for byte."""
    import gguf
    import numpy as np

    ours, theirs = ({tensor.name: tensor for tensor in gguf.GGUFReader(folder / f"{who}.gguf").tensors} for who in ("ours", "official"))
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[name].data, theirs[name].data) for name in ours)


if __name__ == "__main__":
    main()
