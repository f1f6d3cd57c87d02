"""What was seen of the images, for Prometheus."""

from collections.abc import Iterable

from prometheus_client.core import GaugeMetricFamily, HistogramMetricFamily, Metric

from edgecl_deploy.drift.verdict import CAMERA, MODEL, WORLD, Drift


def of_drift(drift: Drift) -> Iterable[Metric]:
    """Yield what was seen; a histogram of few images is left out."""
    for name, text, values in (
        (
            "edgecl_drift_evidence_log10",
            "Evidence of drift: an alarm when that of `atypical` is log10 of drift_run_length.",
            drift.evidence,
        ),
        (
            "edgecl_drift_alarm",
            "Whether the evidence crossed the threshold, until it is acknowledged.",
            drift.alarms,
        ),
    ):
        family = GaugeMetricFamily(name, text, labels=["statistic"])
        for statistic, value in values.items():
            family.add_metric([statistic], float(value))
        yield family
    causes = GaugeMetricFamily(
        "edgecl_drift_cause", "Whether this seems to have changed.", labels=["cause"]
    )
    for cause in (CAMERA, WORLD, MODEL):
        causes.add_metric([cause], float(cause == drift.cause))
    yield causes
    yield GaugeMetricFamily(
        "edgecl_drift_images", "Images that count for drift.", value=drift.images
    )
    if drift.shift is not None:
        yield GaugeMetricFamily(
            "edgecl_feature_shift_ratio",
            "How far features have moved together from their classes: 1 if all alike.",
            value=drift.shift,
        )
    if drift.histogram is not None:
        total, middles, bins, buckets = 0, 0.0, len(drift.histogram), []
        for place, count in enumerate(drift.histogram):
            total += count
            middles += count * (place + 0.5) / bins
            buckets.append((f"{(place + 1) / bins:g}", total))
        yield HistogramMetricFamily(
            "edgecl_p_value",
            "Highest p-value over the classes, of the images that count for drift.",
            buckets=[*buckets, ("+Inf", total)],
            sum_value=round(middles, 3),  # by the middles of the bins
        )
