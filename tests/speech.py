"""A sound that passes for a voice, and a Whisper model of random weights in the layout that faster-whisper reads."""

from __future__ import annotations

import io
import wave
from pathlib import Path

RATE = 16_000
FORMANTS = ((730, 1090, 2440), (270, 2290, 3010), (300, 870, 2240), (530, 1840, 2480))
"""Hertz: the vowels of "father", "see", "boot" and "bet" (Peterson and Barney, 1952)."""


def vowels(seconds: int) -> bytes:
    """WAV of four vowels a second at a man's pitch: faster-whisper's voice detector takes it for speech."""
    import numpy as np

    at = np.arange(RATE * seconds) / RATE
    pitch = 120 + 15 * np.sin(2 * np.pi * 0.7 * at)
    phase = 2 * np.pi * np.cumsum(pitch) / RATE
    which = (4 * at).astype(int) % len(FORMANTS)
    signal = np.zeros_like(at)
    for harmonic in range(1, 30):
        tone = harmonic * pitch
        for number, vowel in enumerate(FORMANTS):
            loud = sum(np.exp(-(((tone - centre) / 120) ** 2)) / (rank + 1) for rank, centre in enumerate(vowel)) + 0.02
            signal += np.where(which == number, loud, 0) * np.sin(harmonic * phase)
    signal *= np.clip(1.3 * np.abs(np.sin(4 * np.pi * at)) - 0.2, 0, 1)
    buffer = io.BytesIO()
    with wave.open(buffer, "wb") as file:
        file.setnchannels(1)
        file.setsampwidth(2)
        file.setframerate(RATE)
        file.writeframes((signal / np.abs(signal).max() * 20_000).astype("<i2").tobytes())
    return buffer.getvalue()


def tiny_whisper(folder: Path) -> Path:
    """An English-only model with one small layer (0.6 MB), converted to CTranslate2."""
    import torch
    from ctranslate2.converters import TransformersConverter
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast, WhisperConfig, WhisperForConditionalGeneration

    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    marks = ["endoftext", "startoftranscript", "translate", "transcribe", "startoflm", "startofprev", "nospeech", "notimestamps"]
    special = [f"<|{mark}|>" for mark in (*marks, *(f"{0.02 * step:.2f}" for step in range(1501)))]
    tokenizer = Tokenizer(models.BPE(vocab={token: number for number, token in enumerate((*letters, *special))}, merges=[]))
    tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    tokenizer.add_special_tokens(special)
    end = len(letters)
    torch.manual_seed(0)
    config = WhisperConfig(
        vocab_size=end + len(special), d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=2, decoder_attention_heads=2,
        encoder_ffn_dim=32, decoder_ffn_dim=32, bos_token_id=end, eos_token_id=end, pad_token_id=end, decoder_start_token_id=end + 1,
        suppress_tokens=[], begin_suppress_tokens=[],
    )  # fmt: skip
    WhisperForConditionalGeneration(config).save_pretrained(folder / "hf")
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="<|endoftext|>").save_pretrained(folder / "hf")
    TransformersConverter(str(folder / "hf"), copy_files=["tokenizer.json"]).convert(str(folder / "ct2"))
    return folder / "ct2"
