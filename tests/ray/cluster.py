"""A local Ray with the deployment, in a process of its own: it deploys what each line of its input says.

{"replicas": 2, "settings": {"torch_threads": 1}} on standard input; `ready` on standard output when that is running.
"""

import json
import sys

import ray
from ray import serve

from app.settings import load_settings
from deploy.ray.serve import deployment


def main(port: int) -> None:
    """Serve on this port of the loopback until the input ends."""
    ray.init(num_cpus=4, num_gpus=0, include_dashboard=False, configure_logging=False, log_to_driver=True)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    for line in sys.stdin:
        order = json.loads(line)
        settings, _ = load_settings(**order["settings"])
        options = {"num_cpus": 1, "num_gpus": 0}
        sized = deployment.options(num_replicas=order["replicas"], ray_actor_options=options)
        serve.run(sized.bind(settings), name="vitrine", route_prefix="/")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
