"""Texts the references are made from: prompts for the real model, and hard cases for tokenizers.

Python 3.11 can read this file: the reference environment does.
"""

from __future__ import annotations

CHATS = [
    "What is the capital of France? Answer in one sentence.",
    "Explain gravity to a child in two sentences.",
    "Write a haiku about the sea.",
    "List three prime numbers greater than 10.",
    "Translate 'good morning' into Spanish.",
    "Who wrote Romeo and Juliet?",
    "Give me a short recipe for pancakes.",
    "What is 12 + 30?",
]

COMPLETIONS = [
    'def fibonacci(n):\n    """Return the n-th',
    "The quick brown fox",
    "Once upon a time, in a village by the sea, there lived",
    "import numpy as np\n\n\ndef softmax(x):\n",
    "SELECT name, COUNT(*) FROM orders WHERE",
    "In 1969, Apollo 11 landed on the",
    "Water boils at 100 degrees Celsius because",
    "Le chat est assis sur",
    "Die Hauptstadt von Deutschland ist",
    "El sol sale por el este y",
    "1, 2, 3, 5, 8, 13,",
    "<html>\n  <body>\n    <h1>",
    "The mitochondria is the powerhouse of the cell. It produces",
    "🎉 Congratulations! 🎉 You have",
    "Dear Sir or Madam,\n\nI am writing to",
    "A",
]

PYTHON = [
    "import os\nimport sys\n",
    "def main(argv=None):\n    parser = argparse.ArgumentParser(",
    "class Queue:\n    def __init__(self, maxsize=0):\n        self.",
    "    def test_simple(self):\n        self.assertEqual(",
    "for i in range(10):\n    print(",
    "try:\n    value = int(text)\nexcept ",
    "with open(path, 'rb') as f:\n    data = ",
    "def __repr__(self):\n    return ",
    "if __name__ == '__main__':\n    ",
    "import collections\n\nCounter = collections.",
    "    raise ValueError(",
    "async def wait_for(fut, timeout):\n    ",
    "@property\ndef name(self):\n    ",
    "# This module implements ",
    '"""Utilities for working with ',
    "return [x for x in ",
    "while True:\n    line = ",
    "self.__class__.__name__",
    "lambda x: x",
    "x = {'a': 1, 'b': ",
    "from typing import ",
    "assert isinstance(",
    "def close(self):\n    if self._sock is not None:\n        ",
    "d",
]

TOKENIZER = [
    *CHATS,
    *COMPLETIONS,
    *PYTHON,
    "12345 + 678",
    "3.14159265358979 1,000,000 0x1F 1e-5 ½ Ⅷ ٣٤ ①②",
    "I'm you're WE'LL don't it's 'quoted' o'clock rock'n'roll",
    "    four spaces\n\ttab\r\nCRLF\n\n\n  trailing   ",
    "Übergrößenträger, où êtes-vous ? ¿Qué tal, señor? Çok güzel.",
    "Привет, мир! Как дела? Γειά σου Κόσμε.",
    "שלום עולם. مرحبا بالعالم، كيف حالك؟",
    "日本語の文章です。你好，世界！안녕하세요",
    "สวัสดีชาวโลก नमस्ते दुनिया வணக்கம் ជំរាបសួរ",
    "Việt Nam, cộng hòa; e\u0301 (combining) vs \u00e9",
    "👋🏽 family 👩‍👩‍👧‍👦 flag 🇨🇭 heart ❤️",
    "∀x∈ℝ: ⌈x⌉ = −⌊−x⌋, α ∧ ¬β → √2 ≈ 1.41421",
    "\u200bzero width\u00a0nbsp\u2028line sep\u3000ideographic",
    "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n",
    "not special: <|im_start <|im_end| <|endoftext|",
    "for (int i = 0; i < n; ++i) { a[i] = b[i] * 2.0f; } // loop",
    "$ curl -s http://localhost:8000/v1/models | jq '.data[0].id'",
    '{"key": [1, 2, {"nested": null}], "ünï": "çødé"}',
    "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa",
    "\x00\x01 control \x7f characters \ufeff",
    " ",
    "\n",
]
