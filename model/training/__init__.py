"""Training and evaluation of flows: `enflow train`, `enflow evaluate`, `enflow data` and `enflow particles`.

One `Trainer` steps every objective; an `Objective` is a network, its data and its loss. `data` prepares the data sets,
`mcmc` samples particle systems, `evaluation` measures trained weights, `experiments` fills the paper's tables. The
package may import everything below it in `enflow.model`, and nothing of `enflow.service`; nothing but the command line
imports it. Begin reading with `config`, `trainer` and `run`.
"""
