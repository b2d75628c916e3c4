"""Load one quantized variant and ask it something: the model access everything else is built on."""

from quantxai.config import parse_config
from quantxai.jobs import open_lm
from quantxai.models import pull
from quantxai.plan import make_plan
from quantxai.preparation import prepare


def main() -> None:
    plan = make_plan(parse_config({"variants": [{"quantizer": "full"}, {"quantizer": "rtn", "bits": 4}]}))
    parent = pull(plan.model)
    for variant in plan.variants:
        prepare(variant, parent, print)
        lm = open_lm(variant, parent, batch_tokens=1024)
        prompt = "The capital of France is"
        answer = lm.generate([prompt], max_new_tokens=5)[0]
        (paris,) = lm.logprobs([prompt], [" Paris"])
        print(f"{variant.name}: {answer.text!r}, log p(Paris) = {sum(paris.logprobs):.2f} nats")


if __name__ == "__main__":
    main()
