import sys

from sim.plan import draw
from sim.run import run_plan

for seed in range(int(sys.argv[1]), int(sys.argv[2])):
    o = run_plan(draw(seed, sys.argv[3] if len(sys.argv) > 3 else "default"))
    print(o.line(), flush=True)
    for p in o.problems[:3] + o.problems[-2:]:
        print("   ", p[:1500])
