"""The evaluation of trained weights: quality of samples, likelihood of test molecules, quality against cost.

`enflow evaluate` runs it: `evaluate` generates and scores, `records` keeps every molecule on disk, `metrics` computes
the figures, `publish` writes them as JSON, as a page (`html_report`) and into the card. The package may import
`training.data`, `training.mcmc`, `training.svg_charts`, `training.git_commit`, the flow, and what lies below it, but
not the trainer. Begin reading with `evaluate`.
"""
