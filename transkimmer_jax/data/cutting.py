"""Long texts are cut before they are tokenised, so that a line of any length takes the time and the memory of what is read of it.

The law: the tokens that are read of a cut text are those of the whole text. A prefix of a text is tokenised, and a larger one where that
is not enough, until it holds more tokens than are read which no continuation can change. Which these are follows from how tokenizers
work: text is normalised character by character (but for combining marks), divided into words, and each word becomes tokens by itself.

- Before a space that stands behind a visible character every word is complete: all tokens of such a prefix are settled.
- In a text without such spaces (Chinese, or a single endless word) BERT's words also end at every ideograph and punctuation mark. So
  behind a character that no later one can combine with, all words but the last are settled. A word of more characters than WordPiece
  looks at is one unknown token, so long runs of letters and digits are shortened first.
- A unigram model divides a word by its best path. Any path through the whole word passes through one of the last places of the prefix,
  no further from its end than the longest piece is long: tokens that the best paths to all of these places begin with are settled.

A tokenizer with steps of another kind reads its texts whole.
"""

import dataclasses
import functools
import json
import re
from collections.abc import Iterator, Sequence
from typing import Any

from transkimmer_jax.errors import DataError

# In characters. A token of ordinary text covers four or five; where eight are not enough, four times as many are tried.
_FIRST_PREFIX, _GROWTH = 8, 4
_NEVER_CUT, _NEVER_CUT_TOKENS = 2048, 32  # texts as long as this, or as so many times the tokens that are read: one reading is cheaper
_DIVIDED_FROM = 1 << 16  # from here on words are divided too, and runs are shortened
_MOST = 1 << 22  # characters without enough settled tokens
_WINDOW = 2000  # characters before the end of a prefix in which it may be cut

_ENDS_BEFORE_SPACE = re.compile(r"(?:[!-~]|[^\W_])(?= )")
# Characters that neither combine with one before them nor come apart at their front: a prefix that ends before one is normalised alike.
_STARTS = re.compile(
    "[ -~\u00c0-\u02af\u0391-\u0482\u048a-\u0529\u05d0-\u05ea\u0621-\u064a\u0e01-\u0e30"
    "\u3041-\u3096\u30a1-\u30fa\u4e00-\u9fff\uac00-\ud7a3]"
)
# 'Precompiled' is SentencePiece's table of what characters become.
_LOCAL_NORMALIZERS = {"BertNormalizer", "NFC", "NFD", "NFKC", "NFKD", "Lowercase", "StripAccents", "Precompiled"}
_WORDS_OF_BERT = ["BertPreTokenizer"]
_WORDS_OF_SENTENCEPIECE = ["WhitespaceSplit", "Metaspace"]  # as transformers divides for XLM-R and CamemBERT
_WORDS_AT_SPACES = (_WORDS_OF_BERT, _WORDS_OF_SENTENCEPIECE, ["Whitespace"], ["WhitespaceSplit"], ["Metaspace"], ["ByteLevel"])
_SPACES = "[ \t\n\r]{2,}"
# Of steps that replace runs of spaces by one: what they look for, and of what a run may be shortened before. The second is DeBERTa's.
_COLLAPSING = {" {2,}": " {2,}", r"\s{2,}|[\n\r\t]": _SPACES}


@dataclasses.dataclass(frozen=True)
class _Rules:
    """What of a tokenizer decides where texts may be cut.

    redundant: runs of which a shorter one gives the same tokens, with what stays of them. word_limit: characters of a word beyond which
    WordPiece gives one unknown token; None for other models or words than BERT's. piece_limit: characters of the longest piece of a
    unigram model; None for others. added: texts of the added tokens; None where one may match beyond its own text.
    """

    redundant: tuple[tuple[re.Pattern[str], str], ...]
    word_limit: int | None
    piece_limit: int | None
    added: tuple[str, ...] | None

    @property
    def added_limit(self) -> int:
        """Characters of the longest added token."""
        return max(map(len, self.added or ()), default=0)


@dataclasses.dataclass(frozen=True)
class _Prefix:
    """The beginning of a text: how many tokens it has, how many of these are settled, and whether it is the whole text."""

    text: str
    tokens: int
    settled: int
    is_whole: bool


class Cutter:
    """Cuts texts for a tokenizer that then reads `max_length` tokens of each, special tokens included.

    in_place: a text's characters are left as they are, so tokens lie where they lie in the whole text; else long runs are shortened, too.
    """

    def __init__(self, tokenizer: Any, max_length: int, in_place: bool = False):
        self._tokenizer, self._max_length, self._in_place = tokenizer, max_length, in_place
        self._never_cut = max(_NEVER_CUT, _NEVER_CUT_TOKENS * max_length)

    def cut(self, texts: Sequence[str], pairs: Sequence[str] | None) -> tuple[Sequence[str], Sequence[str] | None]:
        """The texts, or prefixes of them, of which the tokens that are read are the same; a prefix has more tokens than are read.

        Raises:
          DataError: millions of characters that hold next to no token.
        """
        columns = [texts] if pairs is None else [texts, pairs]
        if all(len(text) <= self._never_cut for column in columns for text in column) or self._rules is None:
            return texts, pairs
        room = self._max_length - self._tokenizer.num_special_tokens_to_add(pair=pairs is not None)
        if pairs is None:
            return [self._cut_single(text, room) for text in texts], None
        cut = [self._cut_pair(text, other, room) for text, other in zip(texts, pairs, strict=True)]
        return [text for text, _ in cut], [other for _, other in cut]

    @functools.cached_property
    def _rules(self) -> _Rules | None:
        is_read_from_the_front = getattr(self._tokenizer, "truncation_side", "right") == "right"
        return _rules(self._tokenizer.backend_tokenizer) if self._tokenizer.is_fast and is_read_from_the_front else None

    def _cut_single(self, text: str, room: int) -> str:
        if len(text) <= self._never_cut:
            return text
        for prefix in self._prefixes(text):
            if prefix.is_whole or prefix.settled > room:
                return prefix.text
        raise _too_few(text)

    def _cut_pair(self, text: str, other: str, room: int) -> tuple[str, str]:
        """Of a pair the longer text is cut first, down to the shorter one's length, and of two that are longer than half the room each gets
        half: so what is read depends on which is the longer."""
        if len(text) <= self._never_cut and len(other) <= self._never_cut:
            return text, other
        for first, second in zip(self._prefixes(text), self._prefixes(other), strict=False):
            if first.is_whole and second.is_whole:
                return first.text, second.text
            if first.is_whole or second.is_whole:
                whole, part = (first, second) if first.is_whole else (second, first)
                if part.settled > max(room, whole.tokens):
                    return first.text, second.text
            elif first.settled > room and second.settled > room:
                return self._ordered(text, other, first, second, room)
        raise _too_few(max(text, other, key=len))

    def _ordered(self, text: str, other: str, first: _Prefix, second: _Prefix, room: int) -> tuple[str, str]:
        """Prefixes of which that of the longer text has more tokens; of texts of equal length the second has no fewer."""
        first_is_longer = self._is_longer(text, other)
        # A shorter prefix may have more tokens, of a word that becomes one unknown token: those that are not settled do not count.
        grown = (prefix for prefix in self._prefixes(text if first_is_longer else other) if prefix.settled > room)
        while (first.tokens > second.tokens) != first_is_longer:
            prefix = next(grown, None)
            if prefix is None:
                raise _too_few(text if first_is_longer else other)
            first, second = (prefix, second) if first_is_longer else (first, prefix)
        return first.text, second.text

    def _is_longer(self, text: str, other: str) -> bool:
        """Whether `text` has more tokens than `other`; both are counted piece by piece until one of them ends."""
        counts = [0, 0]
        pieces = [self._pieces(text), self._pieces(other)]
        while True:
            behind = int(counts[1] < counts[0])
            piece = next(pieces[behind], None)
            if piece is None:
                # The one with fewer tokens has ended. With as many, it is the first, and the second has no fewer.
                return behind == 1
            counts[behind] += len(self._encode(piece).ids)

    def _pieces(self, text: str) -> Iterator[str]:
        """The text in pieces, each tokenised as in its place."""
        start = 0
        while start < len(text):
            stop = start + _DIVIDED_FROM
            while (end := _before_space(text, start + 1, stop)) is None and stop < len(text):
                stop += _DIVIDED_FROM
                if stop - start > _MOST:
                    raise _too_few(text)
            end = len(text) if end is None or stop >= len(text) else end
            yield text[start:end]
            start = end

    def _prefixes(self, text: str) -> Iterator[_Prefix]:
        """Ever longer prefixes, and in the end the text itself, as far as either is short enough."""
        rules = self._rules
        assert rules is not None
        size, is_shortened = _FIRST_PREFIX * self._max_length, self._in_place
        while True:
            if size >= _DIVIDED_FROM and not is_shortened:
                for pattern, rest in rules.redundant:
                    text = pattern.sub(rest, text)
                is_shortened = True
            if size >= len(text):
                if len(text) <= _MOST:
                    count = len(self._encode(text).ids)
                    while True:
                        yield _Prefix(text, count, count, True)
                return
            if size > _MOST:
                return
            end = _before_space(text, size // 2, size)
            if end is not None:
                count = len(self._encode(text[:end]).ids)
                yield _Prefix(text[:end], count, count, False)
            elif size >= _DIVIDED_FROM and (start := _last(_STARTS, text, size // 2, size)) is not None and rules.added is not None:
                yield self._divided(text[:start], rules)
            else:
                yield _Prefix("", 0, 0, False)
            size *= _GROWTH

    def _divided(self, text: str, rules: _Rules) -> _Prefix:
        """A prefix that may end within a word."""
        whole = self._encode(text)
        settled = 0
        if rules.word_limit is not None and whole.word_ids:
            last, end = whole.word_ids[-1], len(text) - rules.added_limit
            settled = sum(word != last and stop <= end for word, (_, stop) in zip(whole.word_ids, whole.offsets, strict=True))
        elif rules.piece_limit is not None:
            normalizer = self._tokenizer.backend_tokenizer.normalizer
            normalized = text if normalizer is None else normalizer.normalize_str(text)
            normalized = normalized[: len(normalized) - rules.added_limit]
            # They are looked for before a text is normalised.
            if any(token in normalized for token in rules.added or ()):
                return _Prefix(text, len(whole.ids), 0, False)
            paths = [self._encode(normalized[: len(normalized) - back]) for back in range(rules.piece_limit)]
            for tokens in zip(*(zip(path.ids, path.offsets, strict=True) for path in paths), strict=False):
                if len(set(tokens)) > 1:
                    break
                settled += 1
            settled -= 1  # unknown characters in a row are one token, which may have grown
        return _Prefix(text, len(whole.ids), max(0, settled), False)

    def _encode(self, text: str) -> Any:
        backend = self._tokenizer.backend_tokenizer
        backend.no_truncation()
        backend.no_padding()
        return backend.encode(text, add_special_tokens=False)


def _rules(backend: Any) -> _Rules | None:
    """None where a step of the tokenizer is not known to be local."""
    normalizers, splitters = _steps(backend.normalizer, "normalizers"), _steps(backend.pre_tokenizer, "pretokenizers")
    collapsed = [_collapsed(step) for step in normalizers]
    is_local = (
        step["type"] in _LOCAL_NORMALIZERS or spaces or _strips_the_end(step) for step, spaces in zip(normalizers, collapsed, strict=True)
    )
    if not all(is_local):
        return None
    words = [step["type"] for step in splitters]
    if words not in _WORDS_AT_SPACES or not all(step.get("split", True) and step.get("use_regex", True) for step in splitters):
        return None
    added = list(backend.get_added_tokens_decoder().values())
    if any(re.search(r"\s", token.content) for token in added):
        return None
    model = type(backend.model).__name__
    of_bert = model == "WordPiece" and words == _WORDS_OF_BERT and [step["type"] for step in normalizers] == ["BertNormalizer"]
    word_limit = backend.model.max_input_chars_per_word if of_bert else None
    # A mask that takes the spaces before it changes no token where spaces are none.
    takes_spaces = words != _WORDS_OF_SENTENCEPIECE and any(token.lstrip for token in added)
    is_exact = not takes_spaces and not any(token.rstrip or token.single_word or token.normalized for token in added)
    contents = tuple(token.content for token in added)
    runs = [_SPACES] if of_bert or words == _WORDS_OF_SENTENCEPIECE else filter(None, collapsed)
    redundant = [(re.compile(run), " ") for run in runs]
    if word_limit is not None and is_exact and not any(content.isalnum() for content in contents):
        # What is left is too long for a word as well, and neither edge looks different to an added token.
        edge = max(word_limit + 1, *map(len, contents))
        redundant.append((re.compile(f"(?<![A-Za-z0-9])([A-Za-z0-9]{{{edge}}})[A-Za-z0-9]+([A-Za-z0-9]{{{edge}}})"), r"\1\2"))
    piece_limit = max(map(len, backend.get_vocab())) if model == "Unigram" and words[-1] == "Metaspace" else None
    return _Rules(tuple(redundant), word_limit, piece_limit, contents if is_exact else None)


def _steps(component: Any, members: str) -> list[dict[str, Any]]:
    """The parts of a tokenizer's normalizer or pre-tokenizer, with their settings."""
    if component is None:
        return []
    state = json.loads(component.__getstate__())
    return state[members] if state["type"] == "Sequence" else [state]


def _collapsed(step: dict[str, Any]) -> str | None:
    """Of which spaces a run may be shortened before this step of a normalizer, which does so; None of other steps."""
    return _COLLAPSING.get(step["pattern"].get("Regex")) if step["type"] == "Replace" and step["content"] == " " else None


def _strips_the_end(step: dict[str, Any]) -> bool:
    """Whether a step takes spaces off the end alone. A prefix ends in what is seen; but what it begins with may be a space."""
    return step["type"] == "Strip" and not step["strip_left"]


def _before_space(text: str, least: int, most: int) -> int | None:
    """The last place not beyond `most` where a space follows a visible character."""
    return _last(_ENDS_BEFORE_SPACE, text, least, most, behind=1)


def _last(pattern: re.Pattern[str], text: str, least: int, most: int, behind: int = 0) -> int | None:
    places = [match.start() + behind for match in pattern.finditer(text, max(least, most - _WINDOW), most + behind)]
    return places[-1] if places else None


def _too_few(text: str) -> DataError:
    return DataError(
        f"a text of {len(text):,} characters that begins with {text[:40]!r} has fewer tokens than are read in {_MOST:,} characters:"
        " it is no text in words; leave it out, or shorten it"
    )
