"""Prompt files: the shipped ones, the faults of others, and where their classes end up in embedding space."""

from __future__ import annotations

import hashlib
import json

import numpy as np
import pytest

from heads import available_prompts, class_embeddings, ensemble, load_prompts, text_bank
from wsi.errors import PromptError
from wsi.identity import digest

GOOD = """
templates = ["an image of {}.", "{}."]
[[classes]]
name = "A"
names = ["apple", "crab apple"]
tumour = true
[[classes]]
name = "pear"
[[classes]]
name = "leaf"
context = true
"""


class Words:
    """An encoder whose embedding of a sentence is random, but always the same, and of a length of its own."""

    def __init__(self):
        self.asked = []

    def encode_texts(self, texts):
        self.asked += texts
        rows = []
        for text in texts:
            seed = int.from_bytes(hashlib.sha256(text.encode()).digest()[:8])
            rows.append(np.random.default_rng(seed).normal(size=16) * (1 + seed % 7))
        return np.array(rows, np.float32)


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "fruit.toml"
    path.write_text(GOOD)
    return load_prompts(path)


def test_the_shipped_sets_load():
    sets = {name: load_prompts(name) for name in available_prompts()}
    assert sets.keys() == {"kather", "benign-malignant", "tumour-normal", "nsclc", "rcc", "brca", "demo"}
    for name, prompts in sets.items():
        assert prompts.name == name
        assert len(prompts.competing) >= 2 and len(prompts.tumour) >= 1


def test_kather_is_worded_as_plip_was_evaluated():
    kather = load_prompts("kather")
    assert kather.templates == ("An H&E image patch of {}.",)
    assert [c.names for c in kather.classes] == [
        (name,)
        for name in (
            "adipose tissue",
            "background",
            "debris",
            "lymphocytes",
            "mucus",
            "smooth muscle",
            "normal colon mucosa",
            "cancer-associated stroma",
            "colorectal adenocarcinoma epithelium",
        )
    ]
    assert kather.competing == tuple(range(9)) and kather.tumour == (8,)


@pytest.mark.parametrize(("name", "labels"), [("nsclc", "LUAD LUSC"), ("rcc", "CHRCC CCRCC PRCC"), ("brca", "IDC ILC")])
def test_subtypes_compete_in_the_usual_order(name, labels):
    prompts = load_prompts(name)
    assert [prompts.names[i] for i in prompts.competing] == labels.split()
    assert all(len(prompts.classes[i].names) > 1 for i in prompts.competing) and len(prompts.templates) > 1


def test_a_file_says_what_it_leaves_out(good):
    assert good.name == "fruit" and good.names == ("A", "pear", "leaf")
    assert [c.names for c in good.classes] == [("apple", "crab apple"), ("pear",), ("leaf",)]
    assert (good.competing, good.tumour) == ((0, 1), (0,))


def test_json_and_toml_give_the_same_set(good, tmp_path):
    classes = [{"name": "A", "names": ["apple", "crab apple"], "tumour": True}, {"name": "pear"}]
    classes.append({"name": "leaf", "context": True})
    path = tmp_path / "other.json"
    path.write_text(json.dumps({"name": "fruit", "templates": ["an image of {}.", "{}."], "classes": classes}))
    assert load_prompts(str(path)) == good
    assert digest(load_prompts(path)) == digest(good)


def test_every_word_counts_in_the_identity(tmp_path):
    digests = set()
    for i, (old, new) in enumerate(
        [("", ""), ("crab ", "cider "), ("true", "false"), ("{}.", "{}!"), ("pear", "plum")]
    ):
        path = tmp_path / f"{i}.toml"
        path.write_text('name = "same"\n' + GOOD.replace(old, new))
        digests.add(digest(load_prompts(path)))
    assert len(digests) == 5


def test_all_faults_are_told_at_once(tmp_path):
    path = tmp_path / "bad.toml"
    path.write_text(
        """
        nmae = "x"
        templates = ["an image.", "{}.", "{}.", 3]
        [[classes]]
        name = "A"
        names = ["apple", ""]
        contxt = true
        [[classes]]
        names = []
        [[classes]]
        name = "a"
        tumour = "yes"
        names = ["pear", "Pear"]
        """
    )
    with pytest.raises(PromptError) as caught:
        load_prompts(path)
    for said in (
        "bad.toml",
        "unknown key 'nmae' (did you mean name; known are name, templates, classes)",
        "template 1 ('an image.') needs {} once",
        "template 4 is a number",
        "template '{}.' is given 2 times",
        "class 1 (A) has an unknown key 'contxt' (did you mean context; known are name, names, context, tumour)",
        "class 1 (A): names must be a list of words, none of them empty",
        "class 2 has no name",
        "class 2: names must be a list",
        "class 3 (a): tumour must be true or false, not text",
        "class name 'a' is given 2 times",
        "name 'pear' is given 2 times",
    ):
        assert said in str(caught.value)


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ('templates = ["{}"]\n[[classes]]\nname = "A"', "two classes at least, not 1"),
        ('templates = ["{}"]\n[[classes]]\nname="A"\n[[classes]]\nname="B"\ncontext=true', "must compete"),
        ('templates = "{}"\nclasses = 3', "templates must be a list.*classes must be a list of tables"),
        ('templates = []\nclasses = ["A", "B"]', "templates must be a list.*class 1 is text"),
        ('templates = ["{} {}"]\n[[classes]]\nname="A"\n[[classes]]\nname="B"', "needs {} once"),
        ("templates = [", "TOML or JSON"),
        ("", "templates must be a list.*classes must be a list"),
        (b"\xff\xfe\x00", "UTF-8"),
    ],
)
def test_single_faults(tmp_path, content, said):
    path = tmp_path / "p.toml"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(PromptError, match=said):
        load_prompts(path)


@pytest.mark.parametrize("content", ["[1, 2]", "null", '"text"', "{", "[" * 100_000, '{"classes": null}'])
def test_json_of_other_shapes_is_no_traceback(tmp_path, content):
    path = tmp_path / "p.json"
    path.write_text(content)
    with pytest.raises(PromptError, match=r"p\.json"):
        load_prompts(path)


@pytest.mark.parametrize("name", ["nsclk", "../prompts/nsclc", "", "x" * 5000, "no/such.toml"])
def test_an_unknown_name_lists_those_there_are(name):
    with pytest.raises(PromptError, match="Shipped sets: benign-malignant, brca, demo"):
        load_prompts(name)


def test_a_slip_in_a_name_is_guessed():
    with pytest.raises(PromptError, match=r"Did you mean nsclc\?"):
        load_prompts("nsclk")


def test_class_embeddings_are_the_unit_mean_of_unit_sentences(good):
    words = Words()
    got = class_embeddings(good, words)
    said = ["an image of apple.", "apple.", "an image of crab apple.", "crab apple."]
    assert words.asked == [*said, "an image of pear.", "pear.", "an image of leaf.", "leaf."]
    units = [v / np.linalg.norm(v) for v in Words().encode_texts(said)]
    np.testing.assert_allclose(got[0], np.mean(units, axis=0) / np.linalg.norm(np.mean(units, axis=0)), atol=1e-6)
    assert got.dtype == np.float32 and got.shape == (3, 16)
    np.testing.assert_allclose(np.linalg.norm(got, axis=1), 1, atol=1e-6)


def test_the_bank_holds_every_sentence_in_its_place(good):
    bank = text_bank(good, Words())
    assert [b.shape for b in bank] == [(2, 2, 16), (1, 2, 16), (1, 2, 16)]
    crab = Words().encode_texts(["crab apple."])[0]
    np.testing.assert_allclose(bank[0][1, 1], crab / np.linalg.norm(crab), atol=1e-6)
    assert np.array_equal(ensemble(bank), class_embeddings(good, Words()))


def test_large_sets_are_encoded_in_batches_in_order():
    brca = load_prompts("brca")
    bank = text_bank(brca, Words())
    assert sum(b.shape[0] * b.shape[1] for b in bank) > 64
    last = Words().encode_texts([brca.templates[-1].replace("{}", brca.classes[-1].names[-1])])[0]
    np.testing.assert_allclose(bank[-1][-1, -1], last / np.linalg.norm(last), atol=1e-6)


def test_context_takes_no_part_in_the_label(good):
    assert good.label(np.array([0.1, 0.3, 0.6])) == "pear"
    np.testing.assert_allclose(good.compete(np.array([0.1, 0.3, 0.6])), [0.25, 0.75, 0])


def test_where_no_competing_class_has_anything_there_is_no_label(good):
    assert good.label(np.array([0, 0, 1.0])) is None
    assert good.compete(np.array([0, 0, 1.0])).tolist() == [0, 0, 0]
