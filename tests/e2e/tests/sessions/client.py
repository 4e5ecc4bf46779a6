"""What programs do with the official client of Python. Prints what it sees as JSON, one line each.

Arguments: a kubeconfig, and a namespace with the pods `box` (a shell) and `echo` (gives back what comes to its port 7000).
"""

import hashlib
import json
import sys

from kubernetes import client, config, watch
from kubernetes.client.rest import ApiException
from kubernetes.stream import portforward, stream

LIMIT = 60


def show(what, **seen):
    print(json.dumps({"what": what, **seen}, sort_keys=True), flush=True)


def digest(text):
    return hashlib.sha256(text.encode()).hexdigest()


def lists(core, namespace):
    pods = core.list_namespaced_pod(namespace, limit=1)
    show("first page", names=[pod.metadata.name for pod in pods.items], more=bool(pods.metadata._continue))
    pods = core.list_namespaced_pod(namespace, limit=1, _continue=pods.metadata._continue)
    show("second page", names=[pod.metadata.name for pod in pods.items], more=bool(pods.metadata._continue))


def watches(core, namespace):
    version = core.list_namespaced_config_map(namespace).metadata.resource_version
    core.create_namespaced_config_map(namespace, {"metadata": {"name": "one"}, "data": {"a": "b"}})
    events = watch.Watch()
    arguments = {"resource_version": version, "timeout_seconds": LIMIT}
    for event in events.stream(core.list_namespaced_config_map, namespace, **arguments):
        show("event", type=event["type"], name=event["object"].metadata.name, data=event["object"].data)
        if event["type"] == "ADDED":
            core.patch_namespaced_config_map("one", namespace, {"data": {"c": "d"}})
        elif event["type"] == "MODIFIED":
            core.delete_namespaced_config_map("one", namespace)
        else:
            events.stop()


def executes(core, namespace):
    def session(pod, command, **more):
        return stream(core.connect_get_namespaced_pod_exec, pod, namespace, command=command, stdout=True, stderr=True, **more)

    # Its protocol has no end of stdin, so the command counts what it takes.
    talk = session("box", ["sh", "-c", "head -c 5000; echo err >&2; exit 3"], stdin=True, _preload_content=False)
    talk.write_stdin("0123456789" * 500)
    talk.run_forever(timeout=LIMIT)
    show("talk", stdout=digest(talk.read_stdout()), stderr=talk.read_stderr(), code=talk.returncode)
    talk.close()
    said = session("box", ["seq", "1", "50000"])
    show("large output", length=len(said), digest=digest(said))
    try:
        session("absent", ["true"])
    except ApiException as error:
        show("refused", status=error.status, reason=error.reason)


def forwards(core, namespace):
    forward = portforward(core.connect_get_namespaced_pod_portforward, "echo", namespace, ports="7000")
    connection = forward.socket(7000)
    connection.settimeout(LIMIT)
    sent = b"0123456789abcdef" * 4096
    connection.sendall(sent)
    back = b""
    while len(back) < len(sent):
        piece = connection.recv(65536)
        if not piece:
            break
        back += piece
    show("forward", same=back == sent, length=len(back), error=forward.error(7000))
    connection.close()


def main(kubeconfig, namespace):
    config.load_kube_config(config_file=kubeconfig)
    core = client.CoreV1Api()
    show("log", text=core.read_namespaced_pod_log("box", namespace))
    for part in (lists, watches, executes, forwards):
        part(core, namespace)
    show("end")


main(*sys.argv[1:])
