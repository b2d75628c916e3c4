"""Ask a finished run which facts one variant lost: `python query_a_run.py RUN VARIANT`."""

import sys

from quantxai.query import query

LOST = """
select parent.item, rows.gold, rows.completion
from measurements as parent
join measurements as variant using (explainer, dataset, item, scorer, metric)
join rows on rows.item = variant.item and rows.variant = variant.variant
where metric = 'recall' and parent.variant = 'full' and variant.variant = '{variant}'
  and parent.value = 1 and variant.value = 0
order by parent.item
"""


def main() -> None:
    run, variant = sys.argv[1:]
    for item, gold, completion in (
        query(run, LOST.format(variant=variant)).to_pandas().itertuples(index=False)
    ):
        print(f"{item}: {gold!r} became {completion!r}")


if __name__ == "__main__":
    main()
