#!/usr/bin/env python3
"""Writes styles.json and components.json: what Hugging Face `tokenizers` makes of tricky texts.

    pip install tokenizers==0.23.3
    python3 make_tokenizer_goldens.py

Made with tokenizers 0.23.3 on CPython 3.11. Models are trained here on the few lines below; the other
sections are spelled as the public checkpoints spell them. Both files stay small because byte-level
styles share one vocabulary and SentencePiece styles another. The library's trainer breaks ties at
random, so another run gives other vocabularies and ids, which are as good.
"""

import json
import pathlib
import random

import tokenizers
from tokenizers import Tokenizer, models, pre_tokenizers, trainers

HERE = pathlib.Path(__file__).parent

CORPUS = """
The river had been rising since noon, and nobody in the village believed that the old bridge would
hold. They'd carried the sheep up the hill, they'd tied the boats, and they were waiting. "It'll pass,"
said the miller, who was always right; the water didn't pass. In 1887 it had reached the church door.
def total(values): return sum(value * 2 for value in values if value > 10)  # 12345 and 67890
for (int i = 0; i < 100; ++i) { total += values[i]; }
Der Fluß war über die Ufer getreten. L'eau était déjà à la porte de l'église. Река поднималась с утра.
川の水は昼から上がっていた。 我们把羊赶到山上。 강물이 정오부터 불어나고 있었다. النهر يرتفع منذ الظهر
THE WATER Rises And FALLS, HelloWorld camelCase snake_case.
""" * 4

TEXTS = [
    "",
    " ",
    "\n",
    "Hello world",
    " leading and trailing ",
    "two  spaces   three    four",
    "tabs\tand\nnewlines\r\nCRLF\r\n\r\n  indented",
    "They'd've said it'S DON'T we'll",
    "1 12 123 1234 12345 3.14159 1,000,000 ² ½ Ⅷ ٣٤",
    "def f(x):\n    return x**2  # comment\n\n\nclass A: pass",
    "café cafe\u0301 Å \u212b e\u0323\u0302 \u1e69 s\u0323\u0307",
    "👩‍👩‍👧‍👦 👍🏽 🇩🇪 ❤️ a🙂b",
    "川の水は昼から。我们把羊赶到山上,강물이 각\u1100\u1161\u11a8",
    "النهر يرتفع ‏منذ الظهر العَرَبِيَّة",
    "हिन्दी क\u093c में ไทย Ελληνικά ΣΊΣΥΦΟΣ",
    "\x00\x01\x1f\x7f\x85\xa0\u180e\u200b\u2028\u2029\u3000\ufeff\ufffd",
    "supercalifragilisticexpialidocious" * 3,
    "the the the the " * 5 + "x" * 70,
    "HelloWorld XMLHttpRequest iPhone ABCdef abcDEF ÀÉÎ àéî ǅ",
    "a/b\\c//d http://example.org/?q=1&r=2#frag\n/next",
    "!!! ... ;;) -- —— “quoted” ‘x’ §¶",
    "<s>Hello</s> <unk> <0x0A> ▁under score▁▁x",
    "<|im_start|>user\nHi<|im_end|>\n<|endoftext|>",
    "a<think> b </think>c<think>d",
    "x<pad>y <pad> z  <pad>  w<left>  <left>v  <right>  u",
    "word words wordword _word_ word.",
    "Grüße STRASSE ß ſ K İstanbul ı",
    "'ſ 'S 'LL '\u212a",
    "\u0301leading mark \u0301 \u3099が",
    "𐍈𝔘𝕟𝕚 𠀀𠀁 \U0001f9ff\U000e0041",
    "a\u0000b \n\n \n x \n",
    "\U00031350\U000323afx \u1c89\u1c8a\ua7cb's \U00010d40\U00016d70",
    "        eight\n\t\t\ttabs   \n   ",
]

CONTRACTIONS = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
QWEN = (
    CONTRACTIONS + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
    r"|\s+(?!\S)|\s+"
)
LLAMA3 = QWEN.replace(r"|\p{N}|", r"|\p{N}{1,3}|")
UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{UPPER}*{LOWER}+{CONTRACTIONS}?"
    rf"|[^\r\n\p{{L}}\p{{N}}]?{UPPER}+{LOWER}*{CONTRACTIONS}?"
    r"|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DEEPSEEK = (
    r"""[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+"""
    r"""| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)


def split(pattern, behavior="Isolated", invert=False):
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": behavior, "invert": invert}


def byte_level(prefix=False, regex=True, trim=True):
    return {
        "type": "ByteLevel", "add_prefix_space": prefix, "trim_offsets": trim, "use_regex": regex,
    }


def sequence(name, *parts):
    return {"type": "Sequence", name: list(parts)}


def added(content, special=True, **flags):
    token = {
        "id": 0, "content": content, "single_word": False, "lstrip": False, "rstrip": False,
        "normalized": not special, "special": special,
    }
    return {**token, **flags}


def template(*tokens):
    single = [{"SpecialToken": {"id": t, "type_id": 0}} for t, _ in tokens]
    single.append({"Sequence": {"id": "A", "type_id": 0}})
    pair = single + [{"Sequence": {"id": "B", "type_id": 1}}]
    special = {t: {"id": t, "ids": [i], "tokens": [t]} for t, i in tokens}
    return {
        "type": "TemplateProcessing", "single": single, "pair": pair, "special_tokens": special,
    }


def replace(pattern, content):
    return {"type": "Replace", "pattern": {"String": pattern}, "content": content}


def train_bytes():
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    trainer = trainers.BpeTrainer(
        vocab_size=460, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
        special_tokens=["<|endoftext|>", "<|im_start|>", "<|im_end|>"])
    tokenizer.train_from_iterator(CORPUS.strip().split("\n"), trainer)
    return json.loads(tokenizer.to_str())["model"]


def train_sentencepiece():
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True, byte_fallback=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Metaspace()
    special = ["<unk>", "<s>", "</s>"] + [f"<0x{b:02X}>" for b in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, limit_alphabet=70, show_progress=False, special_tokens=special)
    tokenizer.train_from_iterator(CORPUS.strip().split("\n"), trainer)
    return json.loads(tokenizer.to_str())["model"]


def styles():
    chatml = [added(t) for t in ("<|endoftext|>", "<|im_start|>", "<|im_end|>")]
    llama = [added(t) for t in ("<unk>", "<s>", "</s>")]
    think = [added(t, special=False, normalized=False) for t in ("<think>", "</think>")]
    fallback_decoder = sequence(
        "decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"},
        {"type": "Strip", "content": " ", "start": 1, "stop": 0})
    yield "qwen3", "bytes", {}, dict(
        added_tokens=chatml + think, normalizer={"type": "NFC"},
        pre_tokenizer=sequence("pretokenizers", split(QWEN), byte_level(regex=False, trim=False)),
        post_processor=byte_level(regex=False, trim=False),
        decoder=byte_level(regex=False, trim=False))
    yield "gpt2", "bytes", {"merges": "strings"}, dict(
        added_tokens=chatml[:1], normalizer=None, pre_tokenizer=byte_level(),
        post_processor=byte_level(trim=False), decoder=byte_level(prefix=True))
    yield "llama3", "bytes", {"ignore_merges": True}, dict(
        added_tokens=chatml, normalizer=None,
        pre_tokenizer=sequence("pretokenizers", split(LLAMA3), byte_level(regex=False)),
        post_processor=sequence("processors", byte_level(), template(("<|endoftext|>", 0))),
        decoder=byte_level(prefix=True))
    yield "gpt-oss", "bytes", {}, dict(
        added_tokens=chatml, normalizer=None,
        pre_tokenizer=sequence("pretokenizers", split(O200K), byte_level(regex=False)),
        post_processor=byte_level(trim=False), decoder=byte_level(prefix=True))
    yield "deepseek", "bytes", {}, dict(
        added_tokens=chatml, normalizer=sequence("normalizers"),
        pre_tokenizer=sequence(
            "pretokenizers", split(r"\p{N}{1,3}"), split("[一-龥぀-ゟ゠-ヿ]+"), split(DEEPSEEK),
            byte_level(regex=False)),
        post_processor=byte_level(), decoder=byte_level(prefix=True))
    yield "starcoder", "bytes", {}, dict(
        added_tokens=chatml + [
            added("<pad>", special=False, lstrip=True, rstrip=True, normalized=False),
            added("<left>", lstrip=True), added("<right>", rstrip=True),
            added("word", special=False, single_word=True)],
        normalizer=None,
        pre_tokenizer=sequence(
            "pretokenizers", {"type": "Digits", "individual_digits": True},
            byte_level(prefix=True)),
        post_processor=None, decoder=byte_level())
    yield "llama2", "sentencepiece", {}, dict(
        added_tokens=llama + [added("<pad>", special=False)],
        normalizer=sequence(
            "normalizers", {"type": "Prepend", "prepend": "▁"}, replace(" ", "▁")),
        pre_tokenizer=None, post_processor=template(("<s>", 1)), decoder=fallback_decoder)
    yield "mistral", "sentencepiece", {}, dict(
        added_tokens=llama, normalizer=None,
        pre_tokenizer={
            "type": "Metaspace", "replacement": "▁", "prepend_scheme": "first", "split": False},
        post_processor=template(("<s>", 1)), decoder=fallback_decoder)
    yield "gemma", "sentencepiece", {}, dict(
        added_tokens=llama, normalizer=replace(" ", "▁"),
        pre_tokenizer={
            "type": "Split", "pattern": {"String": " "}, "behavior": "MergedWithPrevious",
            "invert": False},
        post_processor=template(("<s>", 1)),
        decoder=sequence(
            "decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}))
    yield "metaspace", "sentencepiece", {"byte_fallback": False}, dict(
        added_tokens=llama, normalizer=sequence(
            "normalizers", {"type": "Strip", "strip_left": True, "strip_right": True},
            {"type": "Lowercase"}),
        pre_tokenizer={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"},
        post_processor={"type": "BertProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1]},
        decoder={"type": "Metaspace", "replacement": "▁", "prepend_scheme": "always"})
    yield "unfused", "sentencepiece", {"byte_fallback": False, "fuse_unk": False}, dict(
        added_tokens=llama, normalizer=None, pre_tokenizer={"type": "Whitespace"},
        post_processor={
            "type": "RobertaProcessing", "sep": ["</s>", 2], "cls": ["<s>", 1],
            "trim_offsets": True, "add_prefix_space": True},
        decoder=None)


def document(model, changes, sections):
    model = {**model, **{k: v for k, v in changes.items() if k != "merges"}}
    if changes.get("merges") == "strings":
        model["merges"] = [" ".join(pair) for pair in model["merges"]]
    return {"version": "1.0", "truncation": None, "padding": None, **sections, "model": model}


def make_styles():
    shared = {"bytes": train_bytes(), "sentencepiece": train_sentencepiece()}
    entries = []
    for name, model, changes, sections in styles():
        tokenizer = Tokenizer.from_str(json.dumps(document(shared[model], changes, sections)))
        cases = []
        for text in TEXTS:
            ids = tokenizer.encode(text, add_special_tokens=True).ids
            cases.append([ids, tokenizer.decode(ids, skip_special_tokens=True)])
        generator = random.Random(name)
        ids = list(range(tokenizer.get_vocab_size()))
        noise = []
        for _ in range(12):
            draw = generator.choices(ids, k=generator.randint(1, 14))
            noise.append([draw, tokenizer.decode(draw, skip_special_tokens=False)])
        entries.append({
            "name": name, "model": model, "changes": changes, "sections": sections,
            "plain": tokenizer.encode(TEXTS[3], add_special_tokens=False).ids,
            "cases": cases, "noise": noise,
        })
    return {
        "tokenizers": tokenizers.__version__, "models": shared, "texts": TEXTS, "styles": entries,
    }


PIECE_TEXTS = [
    "The-final--countdown-", "-a--b", "Hello, World! ¿Qué? 12 345 x٣½", " a  b\u180e\u3000c ",
    "it's 1st\n²_x é́ 👍🏽!", "---", "日本語、テスト。", "",
    "\U00031350\U000323afx \u1c89\u1c8a\ua7cb \U0001fae8! \U00010d40\U00016d70 \u0cf3a-\U0001e5ff",
]


def piece_configurations():
    for behavior in ("Removed", "Isolated", "MergedWithPrevious", "MergedWithNext", "Contiguous"):
        for invert in (False, True):
            yield {
                "type": "Split", "pattern": {"String": "-"}, "behavior": behavior, "invert": invert}
        yield split(r"\s+|\d", behavior)
        yield {"type": "Punctuation", "behavior": behavior}
    for individual in (False, True):
        yield {"type": "Digits", "individual_digits": individual}
    for scheme in ("always", "first", "never"):
        for flag in (False, True):
            yield {
                "type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme, "split": flag}
    yield {"type": "Whitespace"}
    yield {"type": "WhitespaceSplit"}
    yield {"type": "CharDelimiterSplit", "delimiter": "-"}
    yield byte_level(prefix=True)
    yield sequence("pretokenizers", {"type": "WhitespaceSplit"}, byte_level(prefix=True))
    for pattern in (
        r"\w+", r"\W+", r"\bx?", r"\B", r"[\w-]+", r"[^\S\n]+", r"x*", r"^.", r".$", r"(?m:a.)",
        r"\h+", r"\p{N}{1,3}+", r"\p{^L}+", r"\P{L}+", r"\p{Letter}+", r"[[:punct:]]+",
        r"[[:alpha:]]++", r"(?<=a)-", r"(?i)t(?-i)h", r"\u0065|\x{6c}", r"a{,2}b", r"-{2}?",
        r"(?>-+)[a-z]", r"\p{Han}+|\p{Katakana}+", r"\p{Emoji}", r"(\w)\1", r"(?:a|b)?+-",
        r"\O", r"[\s\p{P}]+?", r"\A-|-\z",
        r"t(?i)H|s", r"(?:-(?i)F|i)n", r"(?m)1.|2",
    ):
        yield split(pattern)


NORMALIZER_TEXTS = [
    "", "  Hello\t", "Ünïcödé ÅΣ İ ß ǅ", "e\u0301e\u0323\u0302 \u212b\u2126 각\u1100\u1161\u11a8",
    "हि क\u093c ﬁ ² ½ が か\u3099", "a  b   c", "\u3000x\u2003",
]


def normalizer_configurations():
    for name in ("NFC", "NFD", "Lowercase", "StripAccents", "ByteLevel"):
        yield {"type": name}
    for left in (False, True):
        for right in (False, True):
            yield {"type": "Strip", "strip_left": left, "strip_right": right}
    yield {"type": "Prepend", "prepend": "▁"}
    yield replace(" ", "▁")
    yield replace("  ", "<2>")
    yield {"type": "Replace", "pattern": {"Regex": r"\s+"}, "content": " "}
    yield {"type": "Replace", "pattern": {"Regex": "x*"}, "content": "-"}
    yield sequence("normalizers", {"type": "NFD"}, {"type": "StripAccents"}, {"type": "Lowercase"})


DECODER_TOKENS = [
    [], ["▁Hello", "▁▁world", "!"], ["<0xE5>", "<0xB7>", "<0x9D>", "x", "<0xE5>", "y", "<0x0A>"],
    ["Ġa", "Ã", "©", "Ġ", "çº", "日本", "Ċ"], ["low</w>", "er</w>", "</w>x", "est</w>"],
    ["  a  ", " b", "c  ", " d "], ["a", "b", "ab", "aab", "b"],
    ["<0x41>", "<0xC3>", "<0xA9>", "<0xFF>"],
]


def decoder_configurations():
    strip = {"type": "Strip", "content": " ", "start": 2, "stop": 0}
    yield byte_level()
    yield {"type": "ByteFallback"}
    yield {"type": "Fuse"}
    for scheme in ("always", "never"):
        yield {"type": "Metaspace", "replacement": "▁", "prepend_scheme": scheme}
    yield {"type": "BPEDecoder", "suffix": "</w>"}
    yield replace("ab", "X")
    yield {"type": "Replace", "pattern": {"Regex": "[ab]+"}, "content": "<>"}
    yield strip
    yield sequence("decoders", {"type": "Fuse"}, replace("ab", "X"))
    yield sequence(
        "decoders", {"type": "Fuse"}, {"type": "Strip", "content": " ", "start": 1, "stop": 2})
    yield sequence("decoders", replace("▁", " "), {"type": "ByteFallback"}, {"type": "Fuse"}, strip)
    yield sequence(
        "decoders", {"type": "Fuse"},
        {"type": "Replace", "pattern": {"Regex": " +$"}, "content": "."})


def decoded_or_null(part, tokens):
    """Null where the library itself panics (Strip at the end of, BPEDecoder on, nothing)."""
    try:
        return part.decode(tokens)
    except BaseException as error:
        if type(error).__name__ != "PanicException":
            raise
        return None


def make_components():
    model = {"type": "BPE", "vocab": {}, "merges": []}
    empty = {"version": "1.0", "added_tokens": [], "model": model}
    pieces, normalized, decoded = [], [], []
    for configuration in piece_configurations():
        document = json.dumps({**empty, "pre_tokenizer": configuration})
        part = Tokenizer.from_str(document).pre_tokenizer
        cases = [[piece for piece, _ in part.pre_tokenize_str(text)] for text in PIECE_TEXTS]
        pieces.append({"configuration": configuration, "cases": cases})
    for configuration in normalizer_configurations():
        part = Tokenizer.from_str(json.dumps({**empty, "normalizer": configuration})).normalizer
        cases = [part.normalize_str(text) for text in NORMALIZER_TEXTS]
        normalized.append({"configuration": configuration, "cases": cases})
    for configuration in decoder_configurations():
        part = Tokenizer.from_str(json.dumps({**empty, "decoder": configuration})).decoder
        cases = [decoded_or_null(part, tokens) for tokens in DECODER_TOKENS]
        decoded.append({"configuration": configuration, "cases": cases})
    return {
        "tokenizers": tokenizers.__version__, "pieceTexts": PIECE_TEXTS, "pieces": pieces,
        "normalizerTexts": NORMALIZER_TEXTS, "normalized": normalized,
        "decoderTokens": DECODER_TOKENS, "decoded": decoded,
    }


def write(name, value):
    # One line per member keeps differences readable without spending much space.
    lines = []
    for key, member in value.items():
        if isinstance(member, list) and member and not isinstance(member[0], (int, str)):
            rows = ",\n".join(compact(row) for row in member)
            lines.append(f"{compact(key)}: [\n{rows}\n]")
        else:
            lines.append(f"{compact(key)}: {compact(member)}")
    (HERE / name).write_text("{\n" + ",\n".join(lines) + "\n}\n", encoding="utf-8")


def compact(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


if __name__ == "__main__":
    write("styles.json", make_styles())
    write("components.json", make_components())
