"""Reading and checking configs: overrides, interpolation, types, and error messages."""

import math
import random
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Annotated, Literal

import pytest
from helpers.seeds import fresh_seed

from liftstudio.core.config import ComponentSpec, parse, read_config, to_plain, type_name, write_config
from liftstudio.core.errors import InputError
from liftstudio.core.ranges import MinLength, Range, check_ranges
from liftstudio.core.registry import Component, register
from liftstudio.core.schedules import Schedule


@register("thing-of-test-config")
class Thing(Component):
    """A component."""

    kind = "test-config-kind"

    @dataclass
    class Config:
        size: Annotated[int, Range(0)] = 3  # of the thing
        name: str = ""  # of the thing

        def __post_init__(self) -> None:
            if self.name == "nothing":
                raise InputError(f"name: expected another, got {self.name}")

    def __init__(self, config: Config) -> None:
        self.config = config


@dataclass
class Inner:
    rate: float = 0.1
    weight: Schedule = field(default_factory=lambda: Schedule.constant(1))


@dataclass
class Outer:
    count: int
    name: str = "x"
    flag: bool = False
    mode: Literal["near", "far"] = "near"
    limit: int | None = None
    either: Literal["auto"] | float = "auto"
    sizes: list[int] = field(default_factory=list)
    pair: tuple[float, float] = (0.0, 1.0)
    inner: Inner = field(default_factory=Inner)
    groups: dict[str, Inner] = field(default_factory=dict)
    thing: Annotated[ComponentSpec, "test-config-kind"] | None = None
    from_: str = ""


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "c.yaml"
    path.write_text(text)
    return path


def read(tmp_path: Path, text: str, *overrides: str) -> Outer:
    return parse(read_config(written(tmp_path, text), list(overrides)), Outer)


FULL = """\
count: 1
flag: true
mode: far
either: 0.5
sizes: [1, 2]
pair: [2, 3.5]
inner: {rate: 1e-3, weight: [0, 1, 2, 10]}
groups: {a: {rate: 2}}
thing: {type: thing-of-test-config, size: 5}
from: before
"""


def test_all_types(tmp_path: Path) -> None:
    config = read(tmp_path, FULL)
    assert (config.sizes, config.pair, config.from_, config.either) == ([1, 2], (2.0, 3.5), "before", 0.5)
    assert config.inner.rate == 1e-3 and config.inner.weight(5) == 1.5
    assert config.groups["a"].rate == 2.0
    assert config.thing is not None and config.thing.options.size == 5


def test_written_configs_are_read_back(tmp_path: Path) -> None:
    config = read(tmp_path, FULL)
    assert parse(read_config(written(tmp_path, write_config(to_plain(config))), []), Outer) == config


def test_any_text_survives_writing(tmp_path: Path) -> None:
    seed = fresh_seed()
    draw = random.Random(seed)
    parts = [*"\\${}:ab#'\"-[ä ,\n", "\\", "???"]
    texts = ["".join(draw.choices(parts, k=draw.randrange(12))) for _ in range(200)]
    texts += ["\\" * count + "???" for count in range(4)]
    path = written(tmp_path, write_config({"texts": texts}))
    assert read_config(path, [])["texts"] == texts, f"seed {seed}"


@pytest.mark.parametrize(
    "text", ["a cat, 50% off: {x}", "${count}", "\\${x}", "[1, 2]", "1e3", "- a", "'", "#no", "a=b", "???", "\\???"]
)
def test_override_of_text_is_literal(tmp_path: Path, text: str) -> None:
    """In place and where interpolated, also for a mandatory value in the file."""
    config = read(tmp_path, "count: 1\nname: ???\nfrom: ${name}", f"name={text}")
    assert config.name == config.from_ == text


def test_an_override_is_never_missing(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"count: expected a whole number, got '\?\?\?'"):
        read(tmp_path, "count: ???", "count=???")


def test_overrides_at_any_depth(tmp_path: Path) -> None:
    config = read(
        tmp_path,
        FULL,
        "count=7",
        "flag=false",
        "inner.rate=1e-4",
        "inner.weight=[0, 1e-2, 0, 5]",
        "groups.b.rate=3",
        "sizes=[4]",
        "limit=9",
        "thing.size=8",
    )
    assert (config.count, config.flag, config.inner.rate, config.groups["b"].rate) == (7, False, 1e-4, 3.0)
    assert (config.sizes, config.limit, config.inner.weight(0)) == ([4], 9, 0.01)
    assert config.thing is not None and config.thing.options.size == 8
    thing = read(tmp_path, FULL, "thing=thing-of-test-config", "thing.size=9").thing  # after the short form, too
    assert thing is not None and thing.options.size == 9
    assert read(tmp_path, FULL, "thing=null").thing is None
    assert read(tmp_path, FULL, "thing=thing-of-test-config").thing is not None


def test_options_without_a_type_are_of_the_default(tmp_path: Path) -> None:
    """One key is enough; an explicit type and its options are kept."""

    @dataclass
    class Holder:
        thing: Annotated[ComponentSpec, "test-config-kind"] = field(
            default_factory=lambda: ComponentSpec("test-config-kind", "thing-of-test-config", Thing.Config(7))
        )

    for text in ("thing: {size: 5}", "thing: '{size: 5}'", "thing: {type: thing-of-test-config, size: 5}"):
        assert parse(read_config(written(tmp_path, text), []), Holder).thing.options == Thing.Config(5)
    assert parse(read_config(written(tmp_path, "{}"), ["thing.size=4"]), Holder).thing.options.size == 4
    assert parse({}, Holder).thing.options.size == 7
    assert parse({"thing": {}}, Holder).thing.options.size == 3, "the options are the type's own, not the default's"
    with pytest.raises(InputError, match=r"did you mean 'thing\.size'"):
        parse({"thing": {"sise": 1}}, Holder)


def test_interpolation_and_resolvers(tmp_path: Path) -> None:
    text = "count: ${add:${idiv:7,2},1}\nname: ${stem:a/b.png}-${rmspace:a b,_}\ninner: {rate: '${div:1,4}'}"
    config = read(tmp_path, text)
    assert (config.count, config.name, config.inner.rate) == (4, "b-a_b", 0.25)
    if_given = "inner: {rate: '${if_given:${name},3}'}"
    rates = [read(tmp_path, f"count: 1\nname: {name}\n{if_given}").inner.rate for name in ("x", "''")]
    assert rates == [3, 0]


FAULTS = {
    "coun: 1": "unknown key 'coun'; did you mean 'count'?",
    "count: 1\ninner: {rat: 1}": "unknown key 'inner.rat'; did you mean 'inner.rate'?",
    "count: 1\ngroups: {a: {rat: 1}}": "unknown key 'groups.a.rat'",
    "count: 1\nthing: {type: thing-of-test-config, sise: 1}": "did you mean 'thing.size'?",
    "count: 1\nthing: {type: thing-of-test-confic}": "thing.type: unknown test-config-kind",
    "count: 1\nthing: {size: 1}": "thing.type: missing",
    "count: 1\nthing: {type: thing-of-test-config, size: -1}": "thing.size: expected 0 or more, got -1",
    "count: 1\nthing: {type: thing-of-test-config, name: nothing}": "thing.name: expected another, got nothing",
    "name: a": "count: missing; expected a whole number",
    "count: ???": "count: missing; give it as count=...",
    "count: 1\ninner: {rate: '???'}": "inner.rate: missing; give it as inner.rate=...",
    "count: 1\nsizes: [1, '???']": "sizes[1]: missing",
    "count: 1.5": "count: expected a whole number, got 1.5",
    "count: true": "count: expected a whole number",
    "count: many": "count: expected a whole number, got 'many'",
    "count: [1]": "count: expected a whole number",
    "count: 1\nflag: 1": "flag: expected true or false",
    "count: 1\nname: [a]": "name: expected text",
    "count: 1\nname: null": "name: expected text",
    "count: 1\nmode: fat": "did you mean 'far'?",
    "count: 1\neither: x": "either: expected auto or a finite number, got 'x'",
    "count: 1\nlimit: x": "limit: expected a whole number",
    "count: 1\nsizes: 3": "sizes: expected a list",
    "count: 1\nsizes: [1, x]": "sizes[1]: expected a whole number",
    "count: 1\npair: [1]": "pair: expected 2 values, got 1",
    "count: 1\ninner: 5": "inner: expected keys and values",
    "count: 1\ninner: {rate: .nan}": "inner.rate: expected a finite number",
    "count: 1\ninner: {weight: [5, 1, 2, 3]}": "inner.weight: expected ascending steps",
    "count: ${missing}": "count: Interpolation key 'missing' not found",
    "count: ${nope:1}": "count: Unsupported interpolation",
    "count: ${name}\nname: ${count}": "Recursive interpolation",
    "count: ${name}\nname: ???": "name: missing; give it as name=...",
    "count: 1\ncount: 2": "duplicate key count",
    "count: [1": "not a readable YAML file",
    "count: !!python/object/apply:os.getcwd []": "not a readable YAML file",
    "- count": "expected keys and values at the top level",
}


@pytest.mark.parametrize("text", FAULTS)
def test_faults_are_named(tmp_path: Path, text: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, text)
    assert FAULTS[text] in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("override", ["count", "=1", "-x=1", "name.x=1", "sizes.x=1", "a..b=1"])
def test_malformed_overrides(tmp_path: Path, override: str) -> None:
    with pytest.raises(InputError) as caught:
        read(tmp_path, "count: 1\nsizes: [1]\nname: a", override)
    assert "\n" not in str(caught.value)


def test_an_unused_input_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "count: 1\nimage: null\nname: ${data.path}\ndata: {path: a}\n")
    assert read_config(path, ["data.path=b"], ("image", "data.path"))["name"] == "b"
    with pytest.raises(InputError, match=r"'image=a.png' has no effect: nothing in .* refers to \$\{image\}"):
        read_config(path, ["image=a.png"], ("image", "data.path"))
    with pytest.raises(InputError, match="no effect"):  # the override removed the only reader
        read_config(path, ["data.path=b", "name=${data.path}"], ("image", "data.path"))


def test_an_option_of_an_unused_block_is_refused(tmp_path: Path) -> None:
    path = written(tmp_path, "prior: {weights: a}\nviews: {prior: {weights: b}}\nname: ${views.prior.weights}\n")
    for override in ("prior.weights=c", "prior={weights: c}"):
        with pytest.raises(InputError, match=r"' has no effect: nothing in .* refers to \$\{prior\}"):
            read_config(path, [override], ("prior",))
    for reference in ('views: {prior: "${prior}"}', "name: ${prior.weights}"):
        path = written(tmp_path, "prior: {weights: a}\n" + reference)
        assert "c" in str(read_config(path, ["prior.weights=c"], ("prior",)))


def test_type_names() -> None:
    assert type_name(list[int]) == "a list of a whole number"
    assert type_name(int | None) == "a whole number or none"
    assert type_name(Literal["a", "b"]) == "a | b"
    assert type_name(Annotated[ComponentSpec, "light"]) == "a light"
    assert type_name(Annotated[int, Range(0)] | None) == "a whole number >= 0 or none"
    assert type_name(Annotated[list[str], MinLength(1)]) == "a list of text (1 or more of them)"
    assert type_name(list[Annotated[float, Range(0, 1)]]) == "a list of a finite number from 0 to 1"


Number = int | float

# range -> its words, those after "a finite number", values inside, values outside
RANGES: dict[Range, tuple[str, str, list[Number], list[Number]]] = {
    Range(2, 1000): ("2 to 1000", "from 2 to 1000", [2, 1000, 2.5], [1, 1001, 1.999, -2]),
    Range(-0.5, 0.25): ("-0.5 to 0.25", "from -0.5 to 0.25", [-0.5, 0, 0.25], [-0.6, 0.3]),
    Range(1e-5): ("1e-05 or more", ">= 1e-05", [1e-5, 1e300], [0, -1]),
    Range(high=5): ("5 or less", "<= 5", [5, -1e300], [5.1]),
    Range(above=0): ("above 0", "above 0", [1e-300], [0, -1]),
    Range(below=1): ("below 1", "below 1", [0.999, -5], [1]),
    Range(above=0, high=240): ("above 0 to 240", "from above 0 to 240", [1, 240], [0, 241]),
    Range(0, below=1): ("0 to below 1", "from 0 to below 1", [0, 0.5], [-0.1, 1]),
    Range(above=0, below=1): ("above 0 to below 1", "from above 0 to below 1", [0.5], [0, 1]),
    Range(0, 2**63 - 1): ("0 to 9223372036854775807", "from 0 to 9223372036854775807", [2**63 - 1], [2**63]),
}


@pytest.mark.parametrize("given", RANGES, ids=str)
def test_ranges(given: Range) -> None:
    words, described, inside, outside = RANGES[given]
    assert (str(given), given.describe("a finite number")) == (words, f"a finite number {described}")
    assert all(value in given for value in inside) and not any(value in given for value in outside)
    assert math.nan not in given


@pytest.mark.parametrize(
    ("given", "words", "inside", "outside"),
    [
        (Range(multiple_of=8), "a multiple of 8", [8, 64], [0, -8, 4, 12]),
        (Range(16, 32, multiple_of=8), "a multiple of 8 from 16 to 32", [16, 24, 32], [8, 20, 40]),
        (Range(16, or_zero=True), "16 or more, or 0", [0, 16], [15, -1]),
    ],
)
def test_ranges_with_gaps(given: Range, words: str, inside: list[int], outside: list[int]) -> None:
    assert str(given) == words
    assert all(value in given for value in inside) and not any(value in given for value in outside)


def test_ranges_with_gaps_in_words() -> None:
    assert Range(16, multiple_of=8).describe("a whole number") == "a multiple of 8 >= 16"
    assert Range(16, 64, or_zero=True).describe("a whole number") == "a whole number from 16 to 64, or 0"


@dataclass
class Bounded:
    count: Annotated[int, Range(2, 1000)] = 2
    shares: tuple[Annotated[float, Range(0, 1)], Annotated[float, Range(0, 2)]] = (0.0, 2.0)
    sizes: list[Annotated[int, Range(1)]] = field(default_factory=list)
    widths: tuple[Annotated[int, Range(multiple_of=8)], ...] = ()
    weights: dict[str, Annotated[float, Range(0)]] = field(default_factory=dict)
    limit: Annotated[float, Range(above=0)] | None = None
    choice: Annotated[int, Range(0)] | Literal["best"] = "best"
    levels: Annotated[Schedule, Range(0, 1)] | None = None
    angles: Annotated[list[Annotated[float, Range(-89, 89)]], MinLength(2)] = field(default_factory=lambda: [0, 1])


@dataclass
class Outside:
    inner: Bounded = field(default_factory=Bounded)
    all: dict[str, Bounded] = field(default_factory=dict)


def test_values_in_range() -> None:
    data = {
        "count": "1000",
        "shares": [1, 2],
        "sizes": [1, 2],
        "widths": [8, 16],
        "weights": {"a": 0},
        "limit": 0.1,
        "choice": 0,
        "levels": [0, 0, 1, 10],
    }
    assert parse({"inner": data}, Outside).inner.weights == {"a": 0.0}
    assert parse({"inner": {"limit": None, "choice": "best", "levels": None}}, Outside) == Outside()


OUTSIDE = {
    "count: 1": "inner.count: expected 2 to 1000, got 1",
    "count: 1001": "inner.count: expected 2 to 1000, got 1001",
    "count: 2.5": "inner.count: expected a whole number, got 2.5",
    "shares: [0.5, 2.5]": "inner.shares[1]: expected 0 to 2, got 2.5",
    "sizes: [1, 0]": "inner.sizes[1]: expected 1 or more, got 0",
    "widths: [8, 8, 12]": "inner.widths[2]: expected a multiple of 8, got 12",
    "weights: {a: 1, b: -1}": "inner.weights.b: expected 0 or more, got -1",
    "angles: [1]": "inner.angles: expected at least 2 values, got 1",
    "angles: [1, 90]": "inner.angles[1]: expected -89 to 89, got 90",
    "limit: 0": "inner.limit: expected above 0, got 0",
    "choice: -1": "inner.choice: expected 0 or more, got -1",
    "levels: 1.0000001": "inner.levels: expected 0 to 1, got 1.0000001",
    "levels: [[0, 0], [5, 2], [10, 1]]": "inner.levels: expected 0 to 1, got 2",
}


@pytest.mark.parametrize("text", OUTSIDE)
def test_values_out_of_range_are_named(tmp_path: Path, text: str) -> None:
    data = read_config(written(tmp_path, f"inner: {{{text}}}"), [])
    with pytest.raises(InputError, match=f"^{re.escape(OUTSIDE[text])}$"):
        parse(data, Outside)
    with pytest.raises(InputError, match=f"^{re.escape(OUTSIDE[text].replace('inner.', 'all.a.', 1))}$"):
        parse({"all": {"a": data["inner"]}}, Outside)


def test_errors_of_a_component_name_the_full_key() -> None:
    spec = parse({"count": 1, "thing": {"type": "thing-of-test-config"}}, Outer).thing
    assert spec is not None and spec.key == "thing" and spec == ComponentSpec(spec.kind, spec.type, Thing.Config())
    for message, shown in {"size: bad": "thing.size: bad", "a.png: bad": "a.png: bad", "bad": "bad"}.items():
        with pytest.raises(InputError, match=f"^{re.escape(shown)}$"), spec.naming():
            raise InputError(message)


def test_ranges_of_options_built_in_python() -> None:
    with pytest.raises(InputError, match=r"^size: expected 0 or more, got -1$"):
        Thing(Thing.Config(size=-1))
    with pytest.raises(InputError, match=r"^size: expected 0 or more, got -1$"):
        ComponentSpec("test-config-kind", "thing-of-test-config", Thing.Config(size=-1)).build()
    check_ranges(Outside(Bounded(limit=1.0)), Outside)
    with pytest.raises(InputError, match=r"^all\.a\.sizes\[0\]: expected 1 or more, got 0$"):
        check_ranges(Outside(all={"a": Bounded(sizes=[0])}), Outside)
