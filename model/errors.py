"""Everything Enflow raises for its callers; no HTTP in any of it."""


class EnflowError(Exception):
    """The root of all errors raised on purpose: the message says what was found, expected, and what to do."""


class ModelError(EnflowError):
    """Something the model was given, or computed, cannot be used."""


class ConfigError(ModelError):
    """A configuration is wrong: an unknown key, a wrong type, a value out of range."""


class WeightsError(ModelError):
    """A weights directory is missing, damaged, or does not fit its card."""


class DataError(ModelError):
    """A data set is missing, damaged, or not what its name promises."""


class SolverError(ModelError):
    """An integration did not reach its end: too many steps, or a value that is not finite."""


class VocabularyError(ModelError):
    """An element, or a number of atoms, that the model does not know."""


class StructureError(ModelError):
    """A molecular structure cannot be read; says where.

    Args:
        message: what was found and what was expected.
        line: line of the text, from 1.
        column: column in that line, from 1.
        index: which structure of several, from 0.
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
        # The default forgets keyword arguments, and these errors cross from worker processes by pickle.
        return _structure_error, (self.message, self.line, self.column, self.index)

    def __str__(self) -> str:
        places = {"structure": self.index, "line": self.line, "column": self.column}
        where = ", ".join(f"{name} {value}" for name, value in places.items() if value is not None)
        return f"{where}: {self.message}" if where else self.message


def _structure_error(message: str, line: int | None, column: int | None, index: int | None) -> StructureError:
    return StructureError(message, line=line, column=column, index=index)
