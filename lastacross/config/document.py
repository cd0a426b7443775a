"""Holds a configuration file while it is being read: its values, and the errors and notices found so far.

pydantic checks each entry, and its errors become ours, with a line, a column and a message from
``diagnostics``.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Annotated, Any, ClassVar, TypeVar, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, ValidationError

from lastacross.config import units, yaml_file
from lastacross.config.diagnostics import UnusableError, likely, listed, sentence, shown
from lastacross.errors import ConfigError

Path_ = yaml_file.Path_


class Entry(BaseModel):
    """A mapping in a file. An unknown key is an error, and no value is converted silently.

    ``WHAT`` is the mapping's name in messages, such as "a queue".
    """

    WHAT: ClassVar[str] = ""

    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


EntryType = TypeVar("EntryType", bound=Entry)


def parsed(parse: Callable[[str], Any]) -> BeforeValidator:
    """Return a validator for a single value; ``parse`` converts it or raises UnusableError."""

    def check(value: Any) -> Any:
        if not isinstance(value, str):
            raise UnusableError("must be a single value")
        return parse(value)

    return BeforeValidator(check)


def one_of(*choices: str) -> BeforeValidator:
    """Return a validator that accepts only these strings."""

    def check(text: str) -> str:
        if text not in choices:
            raise UnusableError(f"must be {listed(choices)}", likely(text, choices))
        return text

    return parsed(check)


Integer = Annotated[int, parsed(units.parse_integer)]
Count = Annotated[int, parsed(units.parse_count)]
Seconds = Annotated[float, parsed(units.parse_seconds)]
Switch = Annotated[bool, parsed(units.parse_switch)]


# The key above the list in each file that consists of one.
_LISTS = {
    "app.yaml": "handlers",
    **{f"{name}.yaml": name for name in ("queue", "cron", "backends", "dispatch")},
}


class Document:
    """One file's values, with its errors and notices.

    ``name`` is the file's name in messages. ``is_empty_because`` is the error message for an empty file, or
    None if the file may be empty.

    Raises:
        ConfigError: the file is not valid YAML, uses a forbidden YAML feature, is not a mapping, or is
            empty while ``is_empty_because`` is set.
    """

    def __init__(self, text: str, name: str, is_empty_because: str | None) -> None:
        self.name = name
        self.mistakes: list[ConfigError] = []
        self._notices: list[tuple[yaml_file.Place, str]] = []
        self._tree = yaml_file.parse(text, name)
        root = self._tree.root
        if root is None and is_empty_because is not None:
            raise ConfigError(is_empty_because, file=name, line=1, column=1)
        self.is_empty = root is None
        if self.is_empty:
            self._tree.places[()] = (1, 1)
            root = {}
        if not isinstance(root, dict):
            line, column = self._tree.places[()]
            problem = f"expected lines of 'key: value', found {shown(root)}"
            if isinstance(root, list) and name in _LISTS:
                problem += f"; write '{_LISTS[name]}:' on a line above it"
            raise ConfigError(problem, file=name, line=line, column=column)
        self.content: dict[str, Any] = root
        for path, place in self._tree.repeated:
            problem = f"the key {shown(path[-1])} is repeated; keep only one"
            self.mistakes.append(ConfigError(problem, file=name, line=place[0], column=place[1]))

    @property
    def notices(self) -> list[str]:
        """Return the notices, one line each, in the order of their lines in the file."""
        return [f"{self.name}:{line}:{column}: {text}" for (line, column), text in sorted(self._notices)]

    @property
    def sorted_mistakes(self) -> list[ConfigError]:
        """Return the errors in the order of their lines in the file."""
        return sorted(self.mistakes, key=lambda mistake: (mistake.line or 0, mistake.column or 0))

    def line(self, path: Path_) -> int:
        """Return the line on which the value at a path begins."""
        return self._place(path)[0]

    def mistake(self, path: Path_, problem: str, hint: str | None = None, *, is_of_key: bool = False) -> None:
        """Record an error at a path's value, or at its key."""
        line, column = self._place(path, is_of_key)
        self.mistakes.append(ConfigError(sentence(problem, hint), file=self.name, line=line, column=column))

    def notice(self, path: Path_, text: str, *, is_of_key: bool = False) -> None:
        """Record a remark for the file's author; it does not keep any process from starting."""
        self._notices.append((self._place(path, is_of_key), text))

    def validate(self, model: type[EntryType], value: Any, path: Path_) -> EntryType | None:
        """Return the mapping as an entry, or record its errors and return None."""
        try:
            return model.model_validate(value)
        except ValidationError as error:
            for detail in error.errors(include_url=False):
                self._add_mistake(detail, path, model)
            return None

    def entries(self, key: str, what: str) -> Iterable[tuple[Path_, Any]]:
        """Yield a top-level list's items with their paths; a value that is not a list is an error."""
        value = self.content.get(key)
        if value is None:
            return ()
        if not isinstance(value, list):
            hint = "; begin each item with '- '" if isinstance(value, dict) else ""
            self.mistake((key,), f"{key} {shown(value)} must be a list of {what}{hint}")
            return ()
        return [((key, index), item) for index, item in enumerate(value)]

    def set_aside(self, value: Any, known: Mapping[str, str], path: Path_, what: str) -> Any:
        """Return the mapping without the known keys that have no effect, and record a notice for each.

        ``known`` maps each key to its notice; an empty string stands for the usual notice.
        """
        if not isinstance(value, dict):
            return value
        for key in [key for key in value if key in known]:
            remark = known[key] or "has no effect here"
            self.notice((*path, key), f"{key!r} in {what} {remark}", is_of_key=True)
        return {key: item for key, item in value.items() if key not in known}

    def _place(self, path: Path_, is_of_key: bool = False) -> yaml_file.Place:
        """Return the position of a path, or of its nearest parent whose position is known."""
        places = self._tree.key_places if is_of_key else self._tree.places
        if path in places:
            return places[path]
        while path not in self._tree.places:
            path = path[:-1]
        return self._tree.places[path]

    def _add_mistake(self, detail: Any, base: Path_, model: type[Entry]) -> None:
        """Convert one of pydantic's errors into one of ours."""
        path = (*base, *detail["loc"])
        kind, value = detail["type"], detail["input"]
        entry = _entry_at(model, detail["loc"][:-1])
        key = next((str(part) for part in reversed(path) if isinstance(part, str)), entry.WHAT)
        if kind == "extra_forbidden":
            hint = likely(str(path[-1]), [field.alias or name for name, field in entry.model_fields.items()])
            self.mistake(path, f"{entry.WHAT} has no key {shown(path[-1])}", hint, is_of_key=True)
        elif kind == "missing":
            self.mistake(path[:-1], f"{key} is missing: {entry.WHAT} needs one")
        elif isinstance(problem := detail.get("ctx", {}).get("error"), UnusableError):
            self.mistake(path, f"{key} {shown(value)} {problem.problem}", problem.hint)
        else:
            problem = f"must be {_EXPECTED[kind]}" if kind in _EXPECTED else "is not valid here"
            self.mistake(path, f"{key} {shown(value)} {problem}")


def _entry_at(model: type[Entry], keys: Iterable[str | int]) -> type[Entry]:
    """Return the schema of the mapping at these keys."""
    for key in keys:
        if isinstance(key, str) and key in model.model_fields:
            model = next(_entries_in(model.model_fields[key].annotation), model)
    return model


def _entries_in(annotation: Any) -> Iterator[type[Entry]]:
    """Yield the schemas that occur in a field's type."""
    if isinstance(annotation, type) and issubclass(annotation, Entry):
        yield annotation
    for inner in get_args(annotation):
        yield from _entries_in(inner)


_EXPECTED = {
    "string_type": "a single value",
    "list_type": "a list (lines that begin with '- ')",
    "dict_type": "a mapping (lines of 'key: value')",
    "model_type": "a mapping (lines of 'key: value')",
    "model_attributes_type": "a mapping (lines of 'key: value')",
}
