"""Decide how threads of one forward pass wait for each other. It has to be decided before torch is imported.

A forward pass has hundreds of barriers. GNU's OpenMP, which torch brings on Linux, lets a thread spin at a barrier for
as long as 300,000 turns before it sleeps. On a machine with other busy programs the thread that it waits for may not
be running, so the turns take the processor from whoever would run. Without any spinning a forward pass of one image
takes half as long again, because waking a thread takes longer than the wait.

Measured with ViT-S in bfloat16 on two cores, images per second for batches of 8 and of 1, alone and beside two
programs that each keep a core busy:

    turns      alone      beside two
    300,000    81, 66     20, 10
      2,500    76, 65     34, 20
      1,000    79, 58     32, 23
          0    74, 40     29, 18

Threads that compute have the priority of any program. With a lower one (5 on the scale of nice) refusals under ten
times the load came no sooner, and beside those two programs a service of 59 images a second answered 11 instead of 24.

Source: the manual of libgomp, GOMP_SPINCOUNT.
"""

import os

TURNS = "2000"
"""Some microseconds: longer than threads that run are apart, shorter than the system's scheduler takes turns."""

OPERATOR = ("GOMP_SPINCOUNT", "OMP_WAIT_POLICY")


def limit_spinning() -> None:
    """Let OpenMP's threads sleep soon; keep an operator's choice."""
    if not set(OPERATOR) & os.environ.keys():
        os.environ["GOMP_SPINCOUNT"] = TURNS
