"""Run a local Ray cluster in a process of its own, which deploys the service as each line of its input says.

{"replicas": 2, "settings": {"torch_threads": 1}} on standard input; `ready` on standard output when it is running.
"""

import json
import subprocess
import sys


def request(process: subprocess.Popen[str], replicas: int, **settings: object) -> None:
    """Make such a process deploy the service, and wait until it is running."""
    assert process.stdin is not None
    assert process.stdout is not None
    process.stdin.write(json.dumps({"replicas": replicas, "settings": settings}) + "\n")
    process.stdin.flush()
    while (line := process.stdout.readline()) != "ready\n":
        assert line, "the process has ended; its log says why"


def main(port: int) -> None:
    """Serve on this port of the loopback until the input ends."""
    import ray
    from ray import serve

    from app.settings import load_settings
    from deploy.ray.serve import deployment

    ray.init(num_cpus=4, num_gpus=0, include_dashboard=False, configure_logging=False)
    serve.start(http_options={"host": "127.0.0.1", "port": port})
    for line in sys.stdin:
        job = json.loads(line)
        settings, _ = load_settings(**job["settings"])
        options = {"num_cpus": 1, "num_gpus": 0}
        sized = deployment.options(num_replicas=job["replicas"], ray_actor_options=options)
        serve.run(sized.bind(settings), name="vitrine", route_prefix="/")
        sys.stdout.write("ready\n")
        sys.stdout.flush()
    serve.shutdown()
    ray.shutdown()


if __name__ == "__main__":
    main(int(sys.argv[1]))
