"""The cost model: its constants agree with the modules that it may not import."""

from enflow.model.flow.ode.quadrature import NODES
from enflow.service.engine.cost_model import QUADRATURE_NODES


def test_the_number_of_nodes_is_that_of_the_quadrature() -> None:
    assert len(NODES) == QUADRATURE_NODES
