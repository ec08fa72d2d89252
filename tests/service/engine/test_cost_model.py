"""The cost model: its constants agree with the modules that it may not import."""

from enflow.model.flow.ode.quadrature import KRONROD_NODES
from enflow.service.engine.cost_model import GROW_AFTER, QUADRATURE_NODES, BatchBudget, CostTable


def test_the_number_of_nodes_is_that_of_the_quadrature() -> None:
    assert len(KRONROD_NODES) == QUADRATURE_NODES


def test_a_budget_that_was_halved_grows_again_and_waits_longer_each_time() -> None:
    budget = BatchBudget(1000, 5, CostTable((9,), (1e-3,)))
    budget.halve()
    assert budget.pairs == 500
    waits = []
    for _ in range(2):
        steps = 0
        while budget.pairs < 1000:
            budget.record_success()
            steps += 1
        waits.append(steps)
        budget.halve()
    assert waits == [GROW_AFTER, 2 * GROW_AFTER]
