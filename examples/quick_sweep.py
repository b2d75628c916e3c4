"""Compare two round-to-nearest variants with the parent on a few facts, and print what was found."""

from quantxai.run import sweep

CONFIG = {
    "variants": [
        {"quantizer": "full"},
        {"quantizer": "rtn", "bits": 4},
        {"quantizer": "rtn", "bits": 3},
    ],
    "explainers": [{"explainer": "memorization", "dataset": "relations", "n": 36}],
}


def main() -> None:
    store = sweep(CONFIG, out="runs/quick")
    for finding in store.findings():
        print(f"{finding.variant:8} {finding.metric:20} {finding.estimate:+.3f} {finding.verdict}")


if __name__ == "__main__":  # worker processes import this file
    main()
