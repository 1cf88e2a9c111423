"""The data card: its figures equal those of the run's files, it contains no markup of a row, its code and settings work."""

import json
import re
import shutil
import subprocess
import sys
from collections import Counter
from dataclasses import asdict

import polars as pl
import pytest
import yaml
from markdown_it import MarkdownIt

from kiloset.core.config import parse
from kiloset.core.errors import DataError, EmptyError
from kiloset.core.review import Decision, ReviewFile, task_digest
from kiloset.core.run import FORMAT, RunFolder, file_sha256
from kiloset.publish.card import card_text, write_card
from kiloset.publish.export import LAYOUTS, export
from kiloset.publish.facts import gather_facts, parts_of, private
from kiloset.publish.markdown import fenced, inline, table
from kiloset.settings import RunConfig, data_relevant, load_config, to_toml
from tests import fake_run

ATTACKS = [
    "<script>alert(1)</script>", "a | b | c", "x\n---\n# owned\n---\nlicense: mit", "[a](javascript:alert(1)) ![i](http://e.x/i.png)",
    "`code` **bold** _em_ ~~del~~ $x$ ``", "```\n</details>\n~~~~\n# owned", "&lt; &amp; \\| \\", "https://evil.example www.evil.example me@evil.example",
    "{{ 7 * 7 }} {% raw %} {# x #}", "a \u202e b \x1b[2J \u2028 c\x85d", "- item", "1. one", "# head", "> quote", "no", "!!python/object:os.system x",
    "<!-- ", "|", "\\", "[x]: http://e.x", "===", ": y\n", "'\"", "é ü 漢字 🐢", "<a href='http://e.x'>x</a>", "x" * 1000, "C:\\Users\\jo\\a", "*",
]  # fmt: skip
SECTIONS = [
    "Loading it", "Examples", "Categories", "How it was made", "Models", "Sources and licences", "What is known about the rows",
    "Quality measured", "Known limits", "Making it again",
]  # fmt: skip


@pytest.fixture
def run(finished):
    return RunFolder(finished)


def edit(run, change):
    rows = [json.loads(line) for line in run.curated.read_text().splitlines()]
    change(rows)
    run.curated.write_text("".join(json.dumps(row) + "\n" for row in rows))


def read(text):
    """Return the metadata of a card, read strictly, and the tokens of its markdown, from an independent parser."""
    block, body = re.fullmatch(r"---\n(.*?)\n---\n\n(.*)", text, re.DOTALL).groups()
    return yaml.load(block, Strict), MarkdownIt("commonmark").enable(["table", "strikethrough"]).parse(body)


class Strict(yaml.SafeLoader):
    """Refuses a key that occurs twice; YAML's readers take either value."""

    def construct_mapping(self, node, deep=False):
        keys = [self.construct_object(key) for key, _ in node.value]
        assert len(keys) == len(set(keys)), keys
        return super().construct_mapping(node, deep)


def visible_text(inline_token):
    """Return the text of a line as a reader sees it."""
    return "".join("\n" if child.type == "softbreak" else child.content for child in inline_token.children)


def tables(tokens):
    """Return the rows of each table, by the first two names of its head."""
    by_head = {}
    for token in tokens:
        if token.type == "table_open":
            rows = []
        elif token.type == "tr_open":
            rows.append([])
        elif token.type in ("th_open", "td_open"):
            rows[-1].append("")
        elif token.type == "inline" and token.level and rows_are_open(token, tokens):
            rows[-1][-1] = visible_text(token)
        elif token.type == "table_close":
            by_head[tuple(rows[0][:2])] = rows[1:]
    return by_head


def rows_are_open(token, tokens):
    at = tokens.index(token)
    return tokens[at - 1].type in ("th_open", "td_open")


def headings(tokens):
    return [visible_text(tokens[at + 1]) for at, token in enumerate(tokens) if token.type == "heading_open"]


def blocks(tokens):
    return {token.info: token.content for token in tokens if token.type == "fence"}


def text_of(tokens):
    return "\n".join(visible_text(token) for token in tokens if token.type == "inline")


def test_the_numbers_equal_those_of_the_files(run):
    _, tokens = read(card_text(run, "", ()))
    by_head = tables(tokens)
    rows = [json.loads(line) for line in run.curated.read_text().splitlines()]
    got, target = Counter(row["category"] for row in rows), run.manifest["target"]
    assert {name: (int(wanted), int(had)) for name, wanted, had, *_ in by_head["category", "target"]} == {
        name: (target.get(name, 0), got[name]) for name in {*target, *got}
    }
    assert [[split, int(n)] for split, _, n in by_head["split", "file"]] == [
        [name, sum(row["split"] == name for row in rows)] for name in ("train", "validation")
    ]
    dropped = pl.read_parquet(run.dropped_file).group_by("stage", "reason").len()
    assert sorted(
        (stage, reason, int(n.replace(",", ""))) for stage, reason, n in by_head["stage", "reason"]
    ) == sorted(dropped.rows())
    assert [stage for stage, *_ in by_head["stage", "entered"]] == [
        path.stem[3:] for path in sorted(run.path.glob("[0-9]*.parquet"))
    ]
    assert by_head["source", "first writer of the answer"] == [["generated", rows[0]["writer"], "Apache-2.0", "12"]]
    rewrites = sum(row["response_source"] in ("plain", "guided") for row in rows)
    assert (
        f"{rewrites} of the 12 answers are rewrites" if rewrites else "No answer of the set is a rewrite"
    ) in text_of(tokens)
    assert [name for name, _ in by_head["column", "content"]] == list(rows[0])
    assert file_sha256(run.curated) in {value for _, value in by_head["what", "value"]}


def test_the_inputs_of_the_run_are_listed_with_their_licences(run):
    seeds = [json.loads(line) for line in (fake_run.ROOT / "tests" / "seeds.jsonl").read_text().splitlines()]
    sentence = f"Seeds: {len(seeds)} rows under Apache-2.0, from seeds.jsonl; the generator model saw them as examples, and none is in the set."
    text = text_of(read(card_text(run, "", ()))[1])
    assert sentence in text
    assert "Existing set: no rows." in text
    first = run.stage_file(1, "seeds")
    table = pl.read_parquet(first)
    pool = table.head(3).with_columns(source=pl.lit("pool"), license=pl.Series(["CC-BY-SA-3.0", "", "CC-BY-SA-3.0"]))
    pl.concat([table.tail(-3), pool]).write_parquet(first)
    with_pool = text_of(read(card_text(run, "", ()))[1])
    assert "Existing set: 2 rows under CC-BY-SA-3.0, 1 rows under no stated licence." in with_pool


def test_the_same_run_gives_the_same_bytes(run, tmp_path):
    other = RunFolder(shutil.copytree(run.path, tmp_path / "elsewhere" / "mine"))
    assert card_text(run, "", ()) == card_text(other, "", ())


def test_the_metadata_is_what_the_hub_and_datasets_read(run):
    from huggingface_hub import DatasetCard

    parts = parts_of("parquet", {"train": 9, "validation": 3})
    text = card_text(run, "parquet", parts, "jo/set")
    metadata, _ = read(text)
    assert DatasetCard(text).data.to_dict() == metadata
    assert metadata == {
        "annotations_creators": ["machine-generated"], "language_creators": ["machine-generated"], "language": ["en"],
        "license": "apache-2.0", "size_categories": ["n<1K"], "source_datasets": ["original"],
        "task_categories": ["text-generation"], "pretty_name": "whole", "tags": ["instruction-tuning", "kiloset", "synthetic"],
        "configs": [{"config_name": "default", "data_files": [
            {"split": "train", "path": "train.parquet"}, {"split": "validation", "path": "validation.parquet"},
        ]}],
    }  # fmt: skip
    assert read(str(DatasetCard(text)))[0] == metadata


@pytest.mark.parametrize(
    ("licences", "expected"),
    [
        (["MIT"], {"license": "mit"}),
        (["CC-BY-4.0", "CC-BY-SA-4.0"], {"license": "cc-by-sa-4.0"}),
        (["MIT", "Apache-2.0"], {"license": "other", "license_name": "see-the-licences-of-the-rows"}),
        (["unknown", ""], {"license": "unknown"}),
        (["unknown", "MIT"], {"license": "other", "license_name": "see-the-licences-of-the-rows"}),
        (["GPL-3.0-or-later"], {"license": "gpl-3.0"}),
        (["Bespoke: <1>"], {"license": "other", "license_name": "bespoke-1"}),
    ],
)
def test_the_set_has_a_single_licence_only_if_all_rows_agree(run, licences, expected):
    edit(run, lambda rows: [row.update(license=licences[at % len(licences)]) for at, row in enumerate(rows)])
    metadata, tokens = read(card_text(run, "", ()))
    assert {name: value for name, value in metadata.items() if name.startswith("license")} == expected
    rows = {licence: int(n) for _, _, licence, n in tables(tokens)["source", "first writer of the answer"]}
    assert rows == {licence: 12 // len(licences) for licence in licences}
    assert ("No single licence covers all rows" in text_of(tokens)) == (
        expected["license"] == "unknown" or "see-the-licences-of-the-rows" in expected.values()
    )


def test_conflicts_of_licences_are_named_among_the_sources_and_the_limits(run):
    edit(run, lambda rows: rows[0].update(license="CC-BY-NC-4.0"))
    text = text_of(read(card_text(run, "", ()))[1])
    assert text.count("CC-BY-NC-4.0: no commercial use") == 2


def test_the_licence_of_a_model_that_rewrote_answers_counts_where_it_is_not_the_generator(run, monkeypatch):
    config = parse(RunConfig, fake_run.TABLE)
    config = load_config(run.config, {"models.rewriter.name": "other/model", "models.rewriter.license": "llama3"})
    run.config.write_text(to_toml(config))
    manifest = run.manifest
    manifest["stages"]["rewrite"]["models"]["rewriter"] = "other/model@1234567"
    run.update_manifest(manifest)
    facts = gather_facts(run, "", (), "there")
    report = facts.audit
    assert facts.rewriter == (
        "llama3" if sum(row["response_source"] != "reference" for row in report.table.to_dicts()) else None
    )
    assert facts.rewriter == "llama3"
    assert facts.licences == {"Apache-2.0": 12, "llama3": 1}
    assert read(card_text(run, "", ()))[0]["license"] == "other"


def attack(run):
    """Write attacks into every place of a run that a card reads."""

    def change(rows):
        for at, text in enumerate(ATTACKS):
            row = json.loads(json.dumps(rows[0])) | {
                "id": f"h{at}", "category": text, "license": text, "source": text, "split": ("train", "validation")[at % 2]
            }  # fmt: skip
            row["messages"] = [{"role": "user", "content": f"{text} {at}"}, {"role": "assistant", "content": text}]
            rows.append(row)

    edit(run, change)
    ledger = run.dropped()
    reasons = pl.Series([ATTACKS[at % len(ATTACKS)] for at in range(ledger.height)])
    ledger.with_columns(reason=reasons).write_parquet(run.dropped_file)
    table = asdict(load_config(run.config))
    table["seeds"]["path"], table["pool"]["path"], table["contamination"]["files"] = ATTACKS[0], ATTACKS[1], ATTACKS
    for at, model in enumerate(("generator", "base", "rewriter")):
        table["models"][model] |= {"name": ATTACKS[at], "license": ATTACKS[at + 4]}
    run.config.write_text(to_toml(parse(RunConfig, table)))
    manifest = run.manifest
    manifest |= {
        "name": " ".join(ATTACKS[:9]),
        "shortfall": dict.fromkeys(ATTACKS, 1),
        "seed": ATTACKS[2],
        "target": dict.fromkeys(ATTACKS, 1),
    }
    manifest["machine"] = {
        "commit": ATTACKS[4],
        "uncommitted": ATTACKS[5],
        "python": ATTACKS[0],
        "packages": {ATTACKS[1]: ATTACKS[3]},
    }
    for at, stage in enumerate(manifest["stages"].values()):
        stage["models"] = dict.fromkeys(stage["models"], ATTACKS[at])
        stage["dropped"] = {}
    run.update_manifest(manifest)
    interval = {"value": 0.1, "low": 0.0, "high": 0.2}
    figures = {text: {"unit": text, "base": 0.5, "tuned": 0.6, "difference": interval} for text in ATTACKS}
    (run.path / "evaluation.json").write_text(json.dumps(figures))
    arm = [{"metric": ATTACKS[1], "arm": 0.5, "to_base": interval, "to_random": interval}]
    guards = [{"name": text, "change": 1.0, "limit": 0.5} for text in ATTACKS]
    proof = {"target": ATTACKS[1], "verdict": ATTACKS[0], "figures": dict.fromkeys(ATTACKS, arm), "guards": guards}
    (run.path / "prove").mkdir()
    (run.path / "prove" / "proof.json").write_text(json.dumps(proof))


def test_no_text_of_models_or_people_becomes_markup_or_metadata(run):
    attack(run)
    text = card_text(run, "messages", parts_of("messages", {"train": 40}), ATTACKS[2])
    metadata, tokens = read(text)

    title, *sections = headings(tokens)
    assert sections == SECTIONS
    assert title.startswith("<script>alert(1)</script> a | b | c x --- # owned ---")
    kinds = Counter(token.type for token in tokens)
    assert not {"html_block", "blockquote_open", "hr", "code_block"} & kinds.keys()
    children = [child for token in tokens if token.children for child in token.children]
    assert {child.type for child in children} <= {
        "text",
        "strong_open",
        "strong_close",
        "code_inline",
        "softbreak",
        "text_special",
    }
    ours = {
        "license",
        "kiloset evaluate",
        "kiloset prove",
        "over_quota",
        "style_reserve",
        "seed_kept_apart",
        "embedded:",
        "kiloset card",
    }
    assert {child.content for child in children if child.type == "code_inline"} <= ours
    assert not any("<" in token.content for token in tokens if token.type == "inline")
    for rows in tables(tokens).values():
        assert len({len(row) for row in rows}) == 1
    assert re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f\u202e]", text) is None

    categories = {name for name, *_ in tables(tokens)["category", "target"]}
    for one in ATTACKS:
        flat = " ".join(one.split())
        assert any(
            name.startswith(flat[:150].partition("\u202e")[0].partition("\x1b")[0].strip()) for name in categories
        ), one
    assert "https://evil.example www.evil.example me@evil.example" in categories

    assert set(metadata) == {
        "annotations_creators", "language_creators", "language", "license", "license_name", "size_categories", "source_datasets",
        "task_categories", "pretty_name", "tags", "configs",
    }  # fmt: skip
    assert metadata["license"] == "other"
    assert metadata["pretty_name"].startswith("<script>alert(1)</script> a | b | c x --- # owned")


def test_bare_addresses_do_not_become_links(run):
    for text in (
        "https://evil.example",
        "www.evil.example",
        "WWW.evil.example",
        "me@evil.example",
        "ftp://evil.example",
    ):
        assert not re.search(r"://|www\.|WWW\.|(?<!\\)@", inline(text).replace("\\", "\x00")) or "\\@" in inline(text)
        (token,) = [one for one in MarkdownIt("commonmark").parse(inline(text)) if one.type == "inline"]
        assert visible_text(token) == text


@pytest.mark.parametrize("one", ATTACKS)
def test_every_cell_reads_as_it_was_written(one):
    text = table(["a", "b"], [[one, 1234], ["x", 2]])
    by_head = tables(MarkdownIt("commonmark").enable("table").parse(text))
    flat = " ".join(re.sub("[\u202e\x1b\x85]", lambda c: f"⟨U+{ord(c[0]):04X}⟩", one).split())
    (cell, number), _ = by_head["a", "b"]
    assert number == "1,234"
    assert cell == flat or (len(one) > 200 and cell.startswith(flat[:150]))


@pytest.mark.parametrize("one", ["```", "a\n````\n# owned\n`````", "~~~\n```\n", "plain", ""])
def test_a_block_of_code_ends_where_it_should(one):
    (block, after) = [each for each in MarkdownIt("commonmark").parse(f"{fenced(one, 'text')}\n\nend") if each.content]
    assert (block.type, block.info, block.content, after.content) == ("fence", "text", one.rstrip() + "\n", "end")


def test_languages_that_yaml_reads_as_something_else_stay_names(run, monkeypatch):
    monkeypatch.setattr("kiloset.publish.facts.languages_known", lambda texts: ("no", "en"))
    assert read(card_text(run, "", ()))[0]["language"] == ["no", "en"]


LOAD = "import json, os, sys; os.chdir(sys.argv[1]); exec(sys.argv[2]); print(json.dumps(eval(sys.argv[3])))"


def loaded(folder, code, wanted, tmp_path):
    environment = {
        "HF_HOME": str(tmp_path / "hub"),
        "HF_HUB_OFFLINE": "1",
        "PATH": "/usr/bin:/bin",
        "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    }
    ran = subprocess.run(
        [sys.executable, "-c", LOAD, str(folder), code, wanted], capture_output=True, text=True, env=environment
    )
    assert ran.returncode == 0, ran.stderr[-2000:]
    return json.loads(ran.stdout.splitlines()[-1])


@pytest.mark.parametrize("layout", LAYOUTS)
def test_the_code_that_loads_an_export_works(run, tmp_path, layout):
    place = tmp_path / "out"
    done = export(run, layout, place, 0.25, lambda rows: card_text(run, layout, parts_of(layout, rows)))
    _, tokens = read((place / "README.md").read_text())
    code = blocks(tokens)["python"].replace("path/to/this/folder", str(place))
    rows_by_split = loaded(tmp_path, code, "{name: list(rows) for name, rows in sets.items()}", tmp_path)
    assert {name: len(rows) for name, rows in rows_by_split.items()} == done.rows
    curated = {row["id"]: row for row in map(json.loads, run.curated.read_text().splitlines())}
    assert sorted(row["id"] for rows in rows_by_split.values() for row in rows) == sorted(curated)
    columns = [name for name, _ in tables(tokens)["column", "content"]]
    assert columns == list(rows_by_split["train"][0])


def test_the_code_that_loads_the_runs_own_file_works_and_so_does_the_folder(run, tmp_path):
    write_card(run, force=False)
    code = blocks(read((run.path / "README.md").read_text())[1])["python"]
    wanted = "[len(rows), sorted(rows['id']), sorted(train['split'])]"
    ids = sorted(json.loads(line)["id"] for line in run.curated.read_text().splitlines())
    assert loaded(run.path, code, wanted, tmp_path) == [12, ids, ["train"] * 9]
    code = f"from datasets import load_dataset; sets = load_dataset({str(run.path)!r})"
    assert loaded(tmp_path, code, "{name: sorted(rows['id']) for name, rows in sets.items()}", tmp_path) == {
        "train": ids
    }


def test_the_settings_of_a_card_make_the_same_run_again(run, tmp_path):
    toml = blocks(read(card_text(run, "", ()))[1])["toml"]
    (tmp_path / "config.toml").write_text(toml)
    mine, again = load_config(run.config), load_config(tmp_path / "config.toml")
    before, after = data_relevant(mine), data_relevant(again)
    assert before.pop("seeds") | {"path": "seeds.jsonl"} == after.pop("seeds")  # the card does not disclose its path
    assert before == after
    assert (again.generate.max_waves, again.train) == (mine.generate.max_waves, mine.train)


@pytest.mark.parametrize(
    ("name", "public_name"),
    [
        ("/home/jo/seeds.jsonl", "seeds.jsonl"), ("~/x/y/", "y"), ("../../jo/a.csv", "a.csv"), ("C:\\Users\\jo\\a.csv", "a.csv"),
        ("seeds/seeds.jsonl", "seeds/seeds.jsonl"), ("owner/name", "owner/name"), ("/models/m@5c20bb22073e", "m@5c20bb22073e"),
        ("gpt@10.0.0.7:8000/v1", "gpt@(a server)"), ("m@localhost:80", "m@(a server)"), ("m@gpu-box/v1, 2048 tokens", "m@(a server), 2048 tokens"),
        ("fake@1", "fake@1"),
    ],
)  # fmt: skip
def test_a_path_or_a_server_of_a_user_is_shortened(name, public_name):
    assert private(name) == public_name


def test_no_path_of_this_machine_is_in_a_card(run):
    config = load_config(
        run.config,
        {
            "engine.kind": "openai",
            "engine.base_url": "http://10.1.2.3:8000/v1",
            "contamination.files": ["/data/jo/gsm8k.jsonl"],
        },
    )
    run.config.write_text(to_toml(config))
    text = card_text(run, "", ())
    assert str(fake_run.ROOT) not in text
    assert "10.1.2.3" not in text
    assert "/data/jo" not in text
    assert "no row repeats a prompt of gsm8k.jsonl" in text_of(read(text)[1])


def test_missing_measurements_are_reported_as_not_measured(run):
    text = text_of(read(card_text(run, "", ()))[1])
    assert text.count("Not measured") == 2
    assert "It is not known whether the set improves a model" in text
    assert "Contamination: not checked" in text


def test_a_measurement_is_shown_with_its_interval(run):
    interval = {"value": 0.053, "low": 0.014, "high": 0.092}
    (run.path / "evaluation.json").write_text(json.dumps({
        "following strict prompt": {"unit": "share", "better": "higher", "base": 0.239, "tuned": 0.292, "difference": interval},
        "following strict: keywords": {"unit": "share", "better": "higher", "base": 0.1, "tuned": 0.2, "difference": interval},
    }))  # fmt: skip
    (run.path / "prove").mkdir()
    worse = {"value": -0.013, "low": -0.047, "high": 0.02}
    figures = {
        "curated": [{"metric": "m", "arm": 0.2, "to_base": interval, "to_random": worse}],
        "random": [{"metric": "m", "arm": 0.3, "to_base": interval, "to_random": None}],
    }
    guards = [{"name": "refusals", "change": 0.2, "limit": 0.15}, {"name": "forgetting", "change": 0.0, "limit": 0.05}]
    proof = {"target": "m", "verdict": "not distinguishable", "figures": figures, "guards": guards}
    (run.path / "prove" / "proof.json").write_text(json.dumps(proof))
    _, tokens = read(card_text(run, "", ()))
    by_head = tables(tokens)
    assert by_head["metric", "unit"] == [
        ["following strict prompt", "share", "0.239", "0.292", "+0.053 (+0.014 to +0.092)"]
    ]
    assert by_head["trained on", "mean over trainings"][0] == [
        "curated",
        "0.200",
        "+0.053 (+0.014 to +0.092)",
        "-0.013 (-0.047 to +0.020)",
    ]
    text = text_of(tokens)
    assert "on m: not distinguishable; refusals fell more than allowed." in text
    assert "The adapter was trained before curated.jsonl last changed" in text
    run.update_manifest({"train": {"rows_sha256": file_sha256(run.curated)}})
    assert "last changed" not in text_of(read(card_text(run, "", ()))[1])


@pytest.mark.parametrize(
    ("name", "content", "code"),
    [
        ("evaluation.json", "[]", "KS756"),
        ("evaluation.json", "{", "KS755"),
        ("evaluation.json", '{"x": {}}', "KS751"),
        ("prove/proof.json", '{"target": 1}', "KS752"),
    ],
)
def test_a_broken_measurement_is_refused(run, name, content, code):
    (run.path / name).parent.mkdir(exist_ok=True)
    (run.path / name).write_text(content)
    with pytest.raises(DataError, match=name) as error:
        card_text(run, "", ())
    assert error.value.code == code


def test_personal_data_is_counted_by_kind_and_never_shown(run):
    def change(rows):
        for row in rows:
            row["messages"].insert(0, {"role": "system", "content": "You are jane.miller@gmail.com."})
            row["messages"][-1]["content"] += " Key: AKIA" + "QWERTYUIOPASDFGH"

    edit(run, change)
    text = card_text(run, "", ())
    assert "12 x e-mail, 12 x key in the rows of this set" in text
    assert "jane" not in text
    assert "AKIA" not in text


def test_the_card_states_how_the_run_treated_personal_data(run):
    assert "The run " not in card_text(run, "", ())
    run.config.write_text(to_toml(load_config(run.config, {"rules.personal_data": "drop"})))
    assert "street addresses. The run dropped rows with personal data" in card_text(run, "", ())


def test_edits_and_decisions_are_counted(run):
    rows = pl.read_parquet(max(run.path.glob("[0-9]*.parquet")))
    file = ReviewFile(run.review)
    for at, verdict in enumerate(("accept", "reject", "reject")):
        row = rows.row(at, named=True)
        texts = (
            {name: row[name] for name in ("instruction", "input", "response", "category")}
            if verdict == "accept"
            else {}
        )
        file.append(Decision(row["id"], verdict, task_digest(row["instruction"], row["input"]), "", **texts), 0)

    def change(lines):
        lines[0]["messages"][1]["content"] = "Mine."
        del lines[-1]

    edit(run, change)
    metadata, tokens = read(card_text(run, "", ()))
    assert "1 rows changed, 0 added, 1 removed in the file; decisions of a reviewer: 1 accept, 2 reject." in text_of(
        tokens
    )
    assert "expert-generated" in metadata["language_creators"]


def test_a_card_that_was_edited_is_not_overwritten(run, kiloset):
    command = ["card", "--run", run.path.name, "--runs", str(run.path.parent)]
    assert kiloset(*command).returncode == 0
    path = run.path / "README.md"
    first = path.read_bytes()
    assert first == card_text(run, "", ()).encode()
    edit(run, lambda rows: rows.pop())
    assert kiloset(*command).returncode == 0
    assert path.read_bytes() != first
    path.write_text("# mine\n")
    refused = kiloset(*command)
    assert (refused.returncode, path.read_text()) == (2, "# mine\n")
    assert "KS753" in refused.stderr
    assert kiloset(*command, "--force").returncode == 0
    assert path.read_bytes() == card_text(run, "", ()).encode()


def test_a_readme_of_somebody_else_is_not_overwritten(run):
    (run.path / "README.md").write_text("notes")
    with pytest.raises(DataError) as error:
        write_card(run, force=False)
    assert error.value.code == "KS753"
    assert "card_sha256" not in run.manifest


def test_missing_settings_of_a_run_are_reported_as_not_recorded(run):
    run.config.unlink()
    text = card_text(run, "", ())
    assert "the run's settings are not recorded" in text
    assert "from a file that is not recorded" in text_of(read(text)[1])


def test_missing_keys_of_a_manifest_are_reported_as_not_recorded(run):
    stages = run.manifest["stages"]
    for stage in stages.values():
        del stage["models"], stage["fingerprint"]
    run.manifest_file.write_text(json.dumps({"format": FORMAT, "stages": stages}))
    text = text_of(read(card_text(run, "", ()))[1])
    assert "With Kiloset at a commit that is not recorded:" in text
    assert "Not recorded." in text
    assert "By hand: not recorded" in text


def test_a_set_without_rows_has_no_card(run):
    run.curated.write_text("")
    with pytest.raises(EmptyError, match="no row in it"):
        card_text(run, "", ())
