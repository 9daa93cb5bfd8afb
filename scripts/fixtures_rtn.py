"""Writes tests/fixtures/rtn/reference.json: round-to-nearest quantization in plain numpy.

The formulas are those of the GPTQ reference code's Quantizer.find_params without mse (min and max
include 0; symmetric: scale = 2 max|x| / (2^bits - 1), zero = 2^(bits-1); asymmetric: scale =
(max - min) / (2^bits - 1), zero = round(-min / scale)), with the scale rounded to f16 before codes
are chosen. All arithmetic is f32, ties round to even. Needs only numpy.

    python scripts/fixtures_rtn.py
"""

import json
import pathlib

import numpy as np

OUT = pathlib.Path(__file__).resolve().parents[1] / "tests/fixtures/rtn/reference.json"


def quantize(weight, bits, group_size, symmetric):
    out_features, in_features = weight.shape
    max_code = np.float32(2**bits - 1)
    group_size = group_size or in_features
    codes = np.zeros(weight.shape, dtype=np.int64)
    scales, zeros = [], []
    for o in range(out_features):
        for start in range(0, in_features, group_size):
            x = weight[o, start : start + group_size]
            low, high = np.minimum(x.min(), np.float32(0)), np.maximum(x.max(), np.float32(0))
            if low == 0 and high == 0:
                low, high = np.float32(-1), np.float32(1)
            span = np.float32(2) * np.maximum(abs(low), high) if symmetric else high - low
            scale = np.float32(np.float16(span / max_code))
            zero = np.float32(2 ** (bits - 1)) if symmetric else np.clip(np.round(-low / scale), 0, max_code)
            codes[o, start : start + group_size] = np.clip(np.round(x / scale) + zero, 0, max_code)
            scales.append(scale)
            zeros.append(int(zero))
    return codes, np.array(scales, dtype=np.float32), zeros


def bits_of(values):
    return np.ascontiguousarray(values, dtype=np.float32).view(np.uint32).ravel().tolist()


def main():
    rng = np.random.default_rng(0)
    weight = (rng.standard_normal((6, 72)) * 0.05).astype(np.float32)
    weight[1, :32] = 0.0  # a group of zeros
    weight[2, :32] = np.abs(weight[2, :32])  # a zero point of 0
    weight[3, :32] = -np.abs(weight[3, :32])  # the largest zero point
    weight[4] = np.arange(72, dtype=np.float32) / 16 - 2  # many exact ties
    weight[5, 5] = 30.0  # an outlier
    cases = []
    for bits in (2, 3, 4, 8):
        for symmetric in (True, False):
            for group_size in (32, 64, None):  # 72 is a multiple of neither: short last groups
                codes, scales, zeros = quantize(weight, bits, group_size, symmetric)
                cases.append(
                    {
                        "bits": bits,
                        "symmetric": symmetric,
                        "group_size": group_size,
                        "codes": codes.ravel().tolist(),
                        "scale_bits": bits_of(scales),
                        "zeros": zeros,
                    }
                )
    reference = {"shape": list(weight.shape), "weight_bits": bits_of(weight), "cases": cases}
    OUT.parent.mkdir(parents=True, exist_ok=True)
    OUT.write_text(json.dumps(reference, separators=(",", ":")) + "\n")


if __name__ == "__main__":
    main()
