"""The results of an evaluation as a table for people."""

from __future__ import annotations


def table(results: dict) -> str:
    """Lays out what `evaluate` returned: one line per number, at most 100 columns."""
    model, settings, data = results["model"], results["settings"], results["data"]
    lines = [
        f"{model['name']} ({model['resolution']} px, {model['n_bits']} bits, {model['hash']}): "
        f"{settings['count']:,} images, {settings['count']:,} of {data['name']}, seed {settings['seed']}",
        *([f"search {settings['search']}"] if settings.get("search", "none") != "none" else []),
        "", *_saving_lines(results), "", *_false_lines(results), "", *_fidelity_lines(results),
    ]
    return "\n".join(lines)


def _saving_lines(results: dict) -> list[str]:
    """Bit accuracy and attribution, a row for each way of saving."""
    attribution, settings = results["attribution"], results["settings"]
    after = attribution.get("after", {})
    heading = f"attributed (right / wrong / nobody), {settings['n_users']:,} users" if after else ""
    lines = [f"{'after':<18}  {'bit accuracy (95%)':<22}  {heading}".rstrip()]
    for name, accuracy in results["bit_accuracy"].items():
        bits = f"{accuracy['value']:.4f} ({accuracy['low']:.4f}-{accuracy['high']:.4f})"
        found = _attributed(after[name]) + f"  soft {100 * after[name]['soft_share']['value']:.2f}%" if after else ""
        lines.append(f"{name:<18}  {bits:<22}  {found}".rstrip())
    lines.append("")
    if after:
        lines.append(f"attribution at {attribution['needed_matches']} matching bits or more: "
                     f"false-positive rate {settings['false_positive_rate']:g} over all users;")
        lines.append("soft: to the right user where sure bits count for more, as a verdict does")
    else:
        lines.append(f"attribution: not possible, {results['model']['n_bits']} bits are too few for "
                     f"{settings['n_users']:,} users at {settings['false_positive_rate']:g}")
    lines.append(f"worst bit {results['worst_bit_accuracy']:.4f}; "
                 f"capacity {results['capacity_bits']:.1f} bits an image (both after png)")
    return lines


def _attributed(counts: dict) -> str:
    total = counts["correct"] + counts["wrong"] + counts["nobody"]
    share = counts["share"]
    if counts["correct"] == total:
        return f"{total:,} of {total:,}, at least {100 * share['low']:.2f}%"
    interval = f"{100 * share['value']:.2f}% ({100 * share['low']:.2f}-{100 * share['high']:.2f})"
    return f"{counts['correct']:,} / {counts['wrong']:,} / {counts['nobody']:,}  {interval}"


def _false_lines(results: dict) -> list[str]:
    """Images that are not the model's."""
    lines = ["not the model's images"]
    for name, found in results["false_attribution"].items():
        fit = found["binomial_fit"]
        attributed = "-" if found["attributed"] is None else found["attributed"]
        softly = "-" if found["attributed_softly"] is None else found["attributed_softly"]
        test = f"binomial: p = {fit['p_value']:.3f}" if fit else "too few for a test"
        lines.append(f"  {_short(name, 20):<20}  attributed {attributed}, soft {softly} of {found['images']:,} images; "
                     f"best match {found['most_matches']} bits; {test}")
    return lines


def _fidelity_lines(results: dict) -> list[str]:
    consistency, diversity = results["consistency"], results["diversity"]
    frechet, kernel = results["frechet_distance"], results["kernel_distance"]
    ratio = "" if diversity["ratio"] is None else f", {diversity['ratio']:.2f} of that among real images"
    return [
        f"Frechet distance over {frechet['features']}: {frechet['value']:.4g}",
        f"kernel distance over {kernel['features']}: {kernel['value']:.4g} +- {kernel['standard_error']:.2g} "
        f"({kernel['blocks']} blocks of {kernel['block_size']})",
        f"consistency, two fingerprints at one latent: {consistency['psnr_db']['value']:.1f} dB PSNR "
        f"(5%: {consistency['percentile_5']:.1f}, 95%: {consistency['percentile_95']:.1f})",
        f"diversity, one fingerprint: {diversity['one_instance']:.1f} grey levels{ratio}",
    ]


def _short(text: str, width: int) -> str:
    return text if len(text) <= width else "..." + text[-(width - 3):]
