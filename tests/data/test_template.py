"""Conversion of instances to tokens: the text, the order of trimming, first and last tokens."""

import copy

import numpy as np
import pytest
from tiny import CORPUS, tiny_tokenizer
from tokenizers import Tokenizer, models, normalizers, pre_tokenizers, trainers
from tokenizers.processors import TemplateProcessing
from transformers import PreTrainedTokenizerFast

from fedprofit.core.errors import UserError
from fedprofit.data.settings import TemplateConfig
from fedprofit.data.template import Instance, Template, prefix_text

TOKENIZER = tiny_tokenizer()
EOS = TOKENIZER.eos_token_id
POSITIVES = [(" Chad ", "N'Djamena"), ("Peru", " Lima"), ("Kenya", "Nairobi")]
CAPITAL = Instance("Name the capital city", POSITIVES, " the old house\nby the river ", " Paris ")


def template(tokenizer=TOKENIZER, **settings):
    return Template(tokenizer, TemplateConfig(**settings), EOS)


def encode(instance=CAPITAL, **settings):
    return template(**settings).encode([instance])[0]


def text(*parts):
    return TOKENIZER.decode(np.concatenate(parts).tolist())


def ids(string):
    return TOKENIZER(string, add_special_tokens=False)["input_ids"]


WRITTEN = """Definition: Name the capital city.

Positive Example 1 -
Input: Chad
Output: N'Djamena

Positive Example 2 -
Input: Peru
Output: Lima

Now complete the following example -
Input: the old house
by the river
Output: Paris</s>"""


def test_text_is_as_documented():
    prefix, source, target = encode(positive_examples=2)
    assert text(prefix, source, target) == WRITTEN
    assert text(prefix).endswith("example -\n")
    assert text(source) == "Input: the old house\nby the river\nOutput:"
    assert text(target) == " Paris</s>"
    assert target[-1] == EOS
    assert EOS not in target[:-1]
    assert all(part.dtype == np.int32 for part in (prefix, source, target))


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        ({}, "Definition: Name the capital city.\n\nNow complete the following example -\n"),
        ({"definition": False}, ""),
        (
            {"definition": False, "positive_examples": 1},
            "Positive Example 1 -\nInput: Chad\nOutput: N'Djamena\n\nNow complete the following example -\n",
        ),
    ],
)
def test_definition_and_examples_can_be_left_out(settings, expected):
    prefix, source, target = encode(**settings)
    assert text(prefix) == expected
    assert text(source, target) == WRITTEN[WRITTEN.index("Input: the") :]


def test_examples_are_limited_by_their_number():
    assert np.array_equal(encode(positive_examples=9)[0], encode(positive_examples=3)[0])


def blank_tokenizer(kind):
    """A tokenizer that writes blanks as "▁", like SentencePiece; `kind`: whether texts begin with one."""
    blank = "\u2581"
    tokenizer = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True))
    if kind == "none":
        tokenizer.normalizer = normalizers.Replace(" ", blank)
        tokenizer.pre_tokenizer = pre_tokenizers.Split(blank, "merged_with_next")
    else:
        scheme = "first" if kind == "legacy" else kind
        tokenizer.pre_tokenizer = pre_tokenizers.Metaspace(prepend_scheme=scheme)
    octets = [f"<0x{number:02X}>" for number in range(256)]
    trainer = trainers.BpeTrainer(
        vocab_size=500, special_tokens=["<unk>", "<s>", "</s>", *octets], show_progress=False
    )
    tokenizer.train_from_iterator(CORPUS, trainer)
    if kind == "legacy":
        tokenizer.pre_tokenizer = pre_tokenizers.Sequence([])
        begun = [normalizers.Prepend(blank), normalizers.Replace(" ", blank)]
        tokenizer.normalizer = normalizers.Sequence(begun)
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, unk_token="<unk>", bos_token="<s>", eos_token="</s>"
    )


def whole_ids(tokenizer, instance, **settings):
    """The tokens of an instance's joined text, with end of sequence."""
    texts = [
        prefix_text(instance.definition, instance.positives[: settings.get("positive_examples", 0)]),
        f"Input: {instance.input.strip()}\nOutput:",
        f" {instance.target.strip()}",
    ]
    given = tokenizer("".join(texts), add_special_tokens=False, split_special_tokens=True)["input_ids"]
    return [*given, tokenizer.eos_token_id]


@pytest.mark.parametrize("kind", ["bytes", "first", "always", "none", "legacy"])
@pytest.mark.parametrize("definition", ["", "Say it!", "no end"])
@pytest.mark.parametrize("examples", [0, 1])
def test_tokens_of_parts_equal_joined_text(kind, definition, examples):
    tokenizer = TOKENIZER if kind == "bytes" else blank_tokenizer(kind)
    made = Template(tokenizer, TemplateConfig(positive_examples=examples), tokenizer.eos_token_id)
    for given in ("", "x", "a b  c\t d", "é 漢字 🙂", "12 or 345?\n\n- yes", "ends with:"):
        for wanted in ("345.", "été", "two\nlines", "(", "</s>", "a </s> b<s>"):
            instance = Instance(definition, POSITIVES[:1], given, wanted)
            joined = np.concatenate(made.encode([instance])[0]).tolist()
            assert joined == whole_ids(tokenizer, instance, positive_examples=examples)
    assert (made.checked, made.differing) == (36, 0)


def test_texts_merged_across_parts_are_counted():
    tokenizer = Tokenizer(models.BPE())
    trainer = trainers.BpeTrainer(vocab_size=400, special_tokens=["</s>"], show_progress=False)
    tokenizer.train_from_iterator(CORPUS * 3, trainer)
    merging = PreTrainedTokenizerFast(tokenizer_object=tokenizer, eos_token="</s>")
    made = Template(merging, TemplateConfig(), merging.eos_token_id)
    paris, house = (Instance("", [], "France", target) for target in ("Paris", "house"))
    sources = [source.tolist() for _, source, _ in made.encode([paris, house])]
    assert sources[0] == sources[1], "sources do not depend on targets"
    assert (made.checked, made.differing) == (2, 2)


def test_control_tokens_in_texts_are_text():
    pieces = [("<unk>", 0.0), ("</s>", 0.0), *((character, -5.0) for character in "Input:\nO ab</s>")]
    unigram = Tokenizer(models.Unigram([*dict(pieces).items()], unk_id=0))
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=unigram, unk_token="<unk>", eos_token="</s>")
    _, source, target = Template(tokenizer, TemplateConfig(), 1).encode(
        [Instance("", [], "a</s>", "b</s>a")]
    )[0]
    assert 1 not in source
    assert target.tolist().count(1) == 1
    assert tokenizer.convert_ids_to_tokens(target.tolist()) == [*" b</s>a", "</s>"]


LONG = Instance("Name the capital.", POSITIVES, "the old house by the river " * 3, "the new house")


def sizes(count):
    """Number of tokens of the prefix with that many examples, of input and cue, and of the target."""
    return [len(part) for part in encode(LONG, positive_examples=count)]


def test_trimming_removes_last_examples_first():
    for kept in (3, 2, 1, 0):
        fits = sum(sizes(kept))
        for limit in (fits, sum(sizes(kept + 1)) - 1 if kept < 3 else fits + 50):
            prefix, source, target = encode(LONG, positive_examples=3, max_tokens=limit)
            assert np.array_equal(prefix, encode(LONG, positive_examples=kept)[0])
            assert text(source) == "Input: " + LONG.input.strip() + "\nOutput:"
            assert text(target) == " the new house</s>"


def test_trimming_keeps_cue_and_target():
    total = sum(sizes(0))
    _, source, _ = encode(LONG)
    cue = len(ids("\nOutput:"))
    for missing in (1, 2, 7):
        prefix, cut, target = encode(LONG, positive_examples=3, max_tokens=total - missing)
        assert len(prefix) + len(cut) + len(target) == total - missing
        assert np.array_equal(prefix, encode(LONG)[0])
        assert np.array_equal(cut, [*source[: len(source) - cue - missing], *ids("\nOutput:")])
        assert text(target) == " the new house</s>"


def test_instance_that_never_fits_is_named():
    prefix, _, target = encode(LONG)
    least = len(prefix) + len(ids("Input:")) + 1 + len(ids("\nOutput:")) + len(target)
    _, source, _ = encode(LONG, max_tokens=least)
    assert text(source).startswith("Input: t"), "one token of the input remains"
    with pytest.raises(UserError) as caught:
        encode(LONG, max_tokens=least - 1)
    assert "'the old house by the river" in str(caught.value)
    assert f"{len(prefix)} tokens of definition and {len(target)} of target" in str(caught.value)
    assert f"max_tokens = {least - 1}" in str(caught.value)
    assert len(encode(LONG, definition=False, max_tokens=least - 1)[0]) == 0


def test_empty_input_needs_no_tokens():
    instance = Instance("Say hello.", [], "", "hello")
    total = sum(len(part) for part in encode(instance))
    assert text(*encode(instance, max_tokens=total)).endswith("Input: \nOutput: hello</s>")
    with pytest.raises(UserError, match="max_tokens"):
        encode(instance, max_tokens=total - 2)


@pytest.mark.parametrize("first", [["<s>"], ["<|endoftext|>", "</s>"]])
def test_tokens_before_texts_occur_once_at_start(first):
    """Also tokens other than beginning of sequence, which some tokenizers add."""
    begins = copy.deepcopy(TOKENIZER)
    begin = [begins.convert_tokens_to_ids(token) for token in first]
    begins.backend_tokenizer.post_processor = TemplateProcessing(
        single=" ".join([*first, "$A"]), special_tokens=list(zip(first, begin, strict=True))
    )
    for settings in ({}, {"definition": False}, {"positive_examples": 2}):
        ours = template(begins, **settings).encode([CAPITAL])[0]
        plain = encode(**settings)
        assert ours[0].tolist() == [*begin, *plain[0]]
        assert ours[1].tolist() == plain[1].tolist()
        assert ours[2].tolist() == plain[2].tolist()
    assert begin[0] not in np.concatenate(encode(positive_examples=2)), "a tokenizer that adds none gets none"


def test_batch_equals_its_instances():
    instances = [CAPITAL, LONG, Instance("", [], "x", "y"), CAPITAL]
    made = template(positive_examples=1)
    together = made.encode(instances)
    for instance, parts in zip(instances, together, strict=True):
        for ours, single in zip(parts, encode(instance, positive_examples=1), strict=True):
            assert np.array_equal(ours, single)
    assert together[0][0] is together[3][0], "a prefix is tokenized once"
