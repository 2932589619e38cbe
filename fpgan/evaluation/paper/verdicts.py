"""Verdicts beyond single images: several damaged images of one suspect, and images that several users have mixed."""

from __future__ import annotations

from fpgan.evaluation import collusion as mixing
from fpgan.evaluation import pooling as pools
from fpgan.evaluation.metrics import share
from fpgan.evaluation.paper.blocks import Block, Charts, Table, percent
from fpgan.evaluation.paper.charts import Panel, Series, line_chart
from fpgan.evaluation.paper.study import Study

_FEW_USERS = 1_000


def pooling(study: Study) -> list[Block]:
    """Measures verdicts on 1 to 16 images of each of `trial.count` suspects, after each perturbation."""
    trial, rows = study.plan.trial, []
    names = study.plan.perturbations or pools.DAMAGED
    for place, name in enumerate(names):
        rows.append(study.measured("pooling", name, lambda name=name: {"rows": pools.pooling(
            study.model, (name,), suspects=trial.count, registry_size=trial.n_users, seed=trial.seed,
            false_positive_rate=trial.false_positive_rate, batch_size=study.plan.batch_size)})["rows"])
        study.progress("pooling", place + 1, len(names))
    charts = [_pooling_chart(name, found) for name, found in zip(names, rows, strict=True)]
    lines = [[f"`{row['perturbation']}`", str(row["images"]), percent(share(row["attributed"], row["suspects"])),
              percent(share(row["attributed_by_hard_bits"], row["suspects"])), str(row["wrong"]),
              f"{row['median_log10_p']:.1f}"] for found in rows for row in found]
    head = ["after", "images", "attributed, soft", "attributed, hard bits of the pool", "wrong", "median log10 p"]
    legend = {"attributed, soft": "a", "hard bits of the pool": "a dashed"}
    return [Charts(f"Share of {trial.count:,} suspects attributed among {trial.n_users:,} users", charts, legend),
            Table(f"{trial.count:,} suspects, {trial.n_users:,} users, {trial.false_positive_rate:g} over all of them",
                  head, lines)]


def _pooling_chart(name: str, rows: list[dict]) -> str:
    x = [row["images"] for row in rows]
    soft, hard = ([share(row[kind], row["suspects"]) for row in rows] for kind in ("attributed", "attributed_by_hard_bits"))
    return line_chart(f"After {name}", "images pooled", [Panel("attributed", [
        Series("soft", x, [one.value for one in soft], [one.low for one in soft], [one.high for one in soft]),
        Series("hard", x, [one.value for one in hard], style="a dashed", points=False)])], log=True)


def collusion(study: Study) -> list[Block]:
    """Measures whom verdicts name when 2, 3, 5 or 10 users mix their images of one latent, `trial.count` times."""
    trial, rows = study.plan.trial, []
    sizes = sorted({min(_FEW_USERS, trial.n_users), trial.n_users})
    for place, mix in enumerate(mixing.MIXES):
        rows += study.measured("collusion", mix, lambda mix=mix: {"rows": mixing.collusion(
            study.model, mixes=(mix,), registry_sizes=sizes, trials=trial.count, seed=trial.seed,
            false_positive_rate=trial.false_positive_rate, batch_size=study.plan.batch_size)})["rows"]
        study.progress("collusion", place + 1, len(mixing.MIXES))
    lines = [[row["mix"], str(row["colluders"]), f"{row['users']:,}", percent(share(row["caught"], row["trials"])),
              percent(share(row["caught_by_hard_bits"], row["trials"])), str(row["accused"]), f"{row['named']:.2f}",
              percent(share(row["first"], row["trials"]))] for row in rows]
    head = ["mix", "colluders", "users", "caught", "caught, hard bits", "innocent named", "colluders named",
            "the best user is one"]
    return [Table(f"{trial.count:,} mixed pictures each. Caught: at least one colluder is named and nobody innocent", head,
                  lines)]
