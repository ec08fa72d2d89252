"""All errors that Enflow raises for its callers; nothing here knows of HTTP."""


class EnflowError(Exception):
    """The root of all errors raised on purpose; the message says what was found and what was expected."""


class ModelError(EnflowError):
    """An input or a result of the model cannot be used."""


class ConfigError(ModelError):
    """A configuration is wrong: an unknown key, a wrong type, a value out of range."""


class WeightsError(ModelError):
    """A weights directory is missing, is damaged, or does not fit its card."""


class CompileError(ModelError):
    """A velocity cannot be compiled here, or its compiled code cannot be used."""


class DataError(ModelError):
    """A data set is missing, is damaged, or is not the one that its name promises."""


class SolverError(ModelError):
    """An integration did not reach its end: too many steps, or a value that is not finite."""


class InverseWarning(UserWarning):
    """A molecule did not come back from its own latent within the limit."""


class QuadratureWarning(UserWarning):
    """The estimated error of an integral is larger than its tolerance."""


class VocabularyError(ModelError):
    """An element or a number of atoms is unknown to the model.

    Args:
        message: what was found and what was expected.
        name: the name of the structure; empty where it has none.
    """

    def __init__(self, message: str, *, name: str = "") -> None:
        super().__init__(message)
        self.name = name


class StructureError(ModelError):
    """A molecular structure cannot be read; the error says where.

    Args:
        message: what was found and what was expected.
        line: line of the text, from 1.
        column: column in that line, from 1.
        index: place of the structure among several, from 0; the text of the error counts from 1.
    """

    def __init__(
        self, message: str, *, line: int | None = None, column: int | None = None, index: int | None = None
    ) -> None:
        super().__init__(message)
        self.message = message
        self.line = line
        self.column = column
        self.index = index

    def __reduce__(self) -> tuple[object, ...]:
        # The default loses keyword arguments, and worker processes send these errors by pickle.
        return _structure_error, (self.message, self.line, self.column, self.index)

    @property
    def place(self) -> str:
        """The place in words, all counted from 1, such as "structure 2, line 8, column 3"; empty where unknown."""
        number = None if self.index is None else self.index + 1
        places = {"structure": number, "line": self.line, "column": self.column}
        return ", ".join(f"{name} {value}" for name, value in places.items() if value is not None)

    def __str__(self) -> str:
        return f"{self.place}: {self.message}" if self.place else self.message


def _structure_error(message: str, line: int | None, column: int | None, index: int | None) -> StructureError:
    return StructureError(message, line=line, column=column, index=index)
