#!/usr/bin/env python3
"""Text to token ids, as pare reads them: a stream, or rows of one length with labels.

    tools/tokenize.py Qwen2.5-0.5B/ wiki.txt -o wiki.npy
    tools/tokenize.py stories260K/tok512.model stories.txt -o stories.u16 --bos-each-document
    tools/tokenize.py bert_sst2/ dev.tsv -o dev.ids.u16 --pad-to 64

It uses the checkpoint's own tokenizer through whichever of transformers, tokenizers and
sentencepiece that needs, and numpy; pare itself needs none of them.
"""
import sys

# this file's name is that of a module of the standard library, which others import
sys.path = [path for path in sys.path if path != __file__.rpartition("/")[0] and path]

import argparse  # noqa: E402
import pathlib  # noqa: E402
import string  # noqa: E402
import unicodedata  # noqa: E402

import numpy as np  # noqa: E402


class Tokenizer:
    """encode(text) gives plain ids, row(text, length) those of one input with what the model wants
    around it ([CLS] … [SEP]), cut to length. bos, pad: ids or None. size: of the vocabulary."""


class HuggingFace(Tokenizer):
    """A checkpoint's directory, with transformers."""

    def __init__(self, path):
        from transformers import AutoTokenizer
        self.own = AutoTokenizer.from_pretrained(path)
        self.bos, self.pad, self.size = self.own.bos_token_id, self.own.pad_token_id, len(self.own)

    def encode(self, text):
        return self.own(text, add_special_tokens=False, verbose=False)["input_ids"]

    def row(self, text, length):
        return self.own(text, truncation=True, max_length=length)["input_ids"]


class Fast(Tokenizer):
    """A tokenizer.json, or BERT's vocab.txt, with tokenizers."""

    def __init__(self, path):
        if path.suffix == ".json":
            from tokenizers import Tokenizer as Own
            self.own = Own.from_file(str(path))
        else:
            self.own = word_pieces(path)
        self.bos, self.pad = self.first("<s>", "<|endoftext|>"), self.first("[PAD]", "<pad>")
        self.size = self.own.get_vocab_size()

    def first(self, *words):
        """The id of the first of these words that the vocabulary has."""
        ids = [self.own.token_to_id(word) for word in words]
        return next((one for one in ids if one is not None), None)

    def encode(self, text):
        return self.own.encode(text, add_special_tokens=False).ids

    def row(self, text, length):
        self.own.enable_truncation(length)
        return self.own.encode(text).ids


def word_pieces(path):
    """BERT's tokenizer from its vocabulary, which tells what is not written down: words in capitals
    are of a cased one; words with accents kept them; words with a mark in them ('s, --) were never
    split at marks."""
    from tokenizers import Tokenizer as Own, models, normalizers, pre_tokenizers, processors
    words = path.read_text(encoding="utf-8").rstrip("\n").split("\n")
    plain = [word for word in words if not word.startswith(("[", "<", "##"))]
    cased = any(word != word.lower() for word in plain)
    accents = cased or any(unicodedata.normalize("NFD", word) != word for word in words)
    marked = any(len(word) > 1 and set(word) & set(string.punctuation) for word in plain)
    ids = {word: i for i, word in enumerate(words)}
    own = Own(models.WordPiece(ids, unk_token="[UNK]"))
    own.normalizer = normalizers.BertNormalizer(lowercase=not cased, strip_accents=not accents)
    own.pre_tokenizer = (pre_tokenizers.WhitespaceSplit() if marked
                         else pre_tokenizers.BertPreTokenizer())
    own.post_processor = processors.BertProcessing(("[SEP]", ids["[SEP]"]), ("[CLS]", ids["[CLS]"]))
    return own


class SentencePiece(Tokenizer):
    """A SentencePiece .model."""

    def __init__(self, path, keep_blanks):
        self.keep_blanks = keep_blanks
        from sentencepiece import SentencePieceProcessor
        self.own = SentencePieceProcessor(model_file=str(path))
        self.size = self.own.vocab_size()
        self.bos, self.pad = (None if one < 0 else one
                              for one in (self.own.bos_id(), self.own.pad_id()))

    def encode(self, text):
        # the mark that a blank becomes is no blank to the normaliser
        return self.own.encode(text.replace(" ", "\u2581") if self.keep_blanks else text)

    def row(self, text, length):
        return (([] if self.bos is None else [self.bos]) + self.encode(text))[:length]


def open_tokenizer(path, keep_blanks):
    """The tokenizer of a directory or file."""
    if path.is_dir():
        if (path / "tokenizer_config.json").exists() or (path / "tokenizer.json").exists():
            return HuggingFace(path)
        models = [path / "vocab.txt"] if (path / "vocab.txt").exists() else [*path.glob("*.model")]
        if len(models) != 1:
            sys.exit(f"{path} has no tokenizer: neither tokenizer.json, tokenizer_config.json nor "
                     "vocab.txt, and not one .model")
        path = models[0]
    if not path.exists():
        sys.exit(f"{path}: there is no such file or directory")
    return SentencePiece(path, keep_blanks) if path.suffix == ".model" else Fast(path)


def documents(text, options):
    """The texts that are encoded one by one, each behind a BOS if one is asked for."""
    if options.bos_each_line:
        return [line.strip() for line in text.split("\n") if line.strip()]
    if not options.bos_each_document:
        return [text]
    parts = [[]]
    for line in text.split("\n"):
        if line.strip() == options.separator:
            parts.append([])
        else:
            parts[-1].append(line)
    return [part for part in ("\n".join(lines).strip() for lines in parts) if part]


def stream(tokenizer, options):
    """All ids, one after another."""
    begin = []
    if options.bos_each_line or options.bos_each_document:
        bos = tokenizer.bos if options.bos_id is None else options.bos_id
        if bos is None:
            sys.exit("the tokenizer has no token that begins a text: say which with --bos-id")
        begin = [bos]
    ids = []
    for path in options.text:
        for document in documents(path.read_text(encoding="utf-8"), options):
            ids += begin + tokenizer.encode(document)
    return np.array(ids, np.int64)


def rows(tokenizer, options):
    """(rows of ids, labels or None): a line each, with its label behind the last tab."""
    pad = tokenizer.pad if options.pad_id is None else options.pad_id
    if pad is None:
        sys.exit("the tokenizer has no token to pad with: say which with --pad-id")
    ids, labels = [], []
    for path in options.text:
        for number, line in enumerate(path.read_text(encoding="utf-8").split("\n"), 1):
            if not line.strip():
                continue
            text, tab, label = line.rpartition("\t")
            if tab and number == 1 and not label.strip().isdigit():
                continue  # a table's heading
            if tab and not (label.strip().isdigit() and int(label) < 256):
                sys.exit(f"{path}, line {number}: {label!r} is no label between 0 and 255")
            if tab:
                labels.append(int(label))
            row = tokenizer.row(text if tab else line, options.pad_to)
            ids.append(row + [pad] * (options.pad_to - len(row)))
    if labels and len(labels) != len(ids):
        sys.exit(f"{len(ids) - len(labels)} of the {len(ids)} lines have no label")
    return np.array(ids, np.int64).reshape(-1, options.pad_to), np.array(labels, np.uint8)


def save(path, ids, size):
    """Writes ids as the name's ending says, in as few bytes as the vocabulary allows."""
    if ids.size == 0:
        sys.exit("there is no text: nothing is written")
    wide = max(size, int(ids.max()) + 1) > 1 << 16
    if path.suffix == ".u16" and wide:
        sys.exit(f"a vocabulary of {size} does not fit 16 bits: write {path.with_suffix('.u32')}")
    ids = ids.astype("<u4" if wide or path.suffix == ".u32" else "<u2")
    if path.suffix == ".npy":
        np.save(path, ids)
    else:
        ids.tofile(path)


def labels_path(path):
    """Where labels go: x.ids.u16 and x.npy have theirs in x.labels.u8."""
    return path.with_name(path.stem.removesuffix(".ids") + ".labels.u8")


def parse():
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    add = parser.add_argument
    add("tokenizer", type=pathlib.Path,
        help="a checkpoint's directory, a tokenizer.json, a SentencePiece .model, or a vocab.txt")
    add("text", type=pathlib.Path, nargs="+", help="UTF-8 text; with --pad-to lines, or "
        "tab-separated lines whose last column is a label (a heading is passed over)")
    add("-o", "--output", type=pathlib.Path, required=True,
        help="X.npy, X.u16 or X.u32; labels go beside it, to X.labels.u8")
    kind = parser.add_mutually_exclusive_group()
    kind.add_argument("--bos-each-line", action="store_true",
                      help="every line that is not empty is a text of its own, behind a BOS")
    kind.add_argument("--bos-each-document", action="store_true",
                      help="every text between separators is one of its own, behind a BOS")
    kind.add_argument("--pad-to", type=int, metavar="N",
                      help="a row of N ids for every line, with the special tokens that the model "
                      "wants, cut or padded")
    add("--separator", default="<|endoftext|>", metavar="TEXT",
        help="the line between documents (%(default)s)")
    add("--keep-blanks", action="store_true",
        help="of a SentencePiece .model: take runs of blanks as they are, as llama.cpp does, also "
        "where the model's own normaliser makes one of them")
    add("--bos-id", type=int, metavar="ID", help="instead of the tokenizer's own")
    add("--pad-id", type=int, metavar="ID", help="instead of the tokenizer's own")
    options = parser.parse_args()
    if options.output.suffix not in (".npy", ".u16", ".u32"):
        parser.error(f"{options.output} must end in .npy, .u16 or .u32")
    if options.pad_to is not None and options.pad_to < 1:
        parser.error("--pad-to takes a positive number")
    for path in options.text:
        if not path.is_file():
            parser.error(f"{path}: there is no such file")
    return options


def main():
    options = parse()
    try:
        tokenizer = open_tokenizer(options.tokenizer, options.keep_blanks)
    except ImportError as missing:
        sys.exit(f"{options.tokenizer} needs a package that is not installed: {missing}")
    labels = np.array([])
    if options.pad_to:
        ids, labels = rows(tokenizer, options)
    else:
        ids = stream(tokenizer, options)
    save(options.output, ids, tokenizer.size)
    print(f"{options.output}: {' x '.join(map(str, ids.shape))} tokens below {tokenizer.size}")
    if labels.size:
        labels.tofile(labels_path(options.output))
        print(f"{labels_path(options.output)}: {labels.size} labels")


if __name__ == "__main__":
    main()
