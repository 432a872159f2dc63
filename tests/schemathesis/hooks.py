"""What the OpenAPI document cannot tell Schemathesis: whose sessions there are, and what a number in a path may name.

Random numbers name nothing, so that hardly a request would get beyond 404, and small ones name what others need. So each
number is exchanged: one half of the requests gets something made for it, the other half a number that nothing has. What
ends a session, changes a password or deletes an account is done to an account made for that request. All of it is made
through the same API, so that nothing is out of reach of the checks.
"""

import collections
import itertools
import os
import sys

import requests
import schemathesis
from schemathesis.core.parameters import ParameterLocation

BASE = os.environ["KVMOOR_URL"]
# A session of the account whose requests are tested, and one of an admin who prepares things.
CALLER = os.environ["KVMOOR_CALLER_TOKEN"]
ADMIN = os.environ["KVMOOR_ADMIN_TOKEN"]
PASSWORD = "password of a guinea pig"
# Above this, numbers name nothing.
NOTHING = 1 << 40
# More virtual machines than this are not kept; libvirt would have to run them all.
KEPT = 6
# What deletes the account or ends the sessions of the one who calls it.
ENDS_SESSIONS = {"logout", "change_password"}

serial = itertools.count(1)
turns = collections.Counter()
kept_vms = collections.deque()
kept_users = []
accounts = []
# Numbers that answers of this run have given, by kind.
given = collections.defaultdict(set)


def call(method, path, token, body=None):
    # Each from an address of its own: throttling is tested by the requests, not by what prepares them.
    headers = {"x-forwarded-for": f"192.0.2.{next(serial) % 250 + 1}"}
    if token:
        headers["authorization"] = f"Bearer {token}"
    return requests.request(method, BASE + path, json=body, headers=headers, timeout=35)


def make(kind, path, token, body):
    """The number of something new; of nothing where it is refused, as after a change of the quota."""
    answer = call("POST", path, token, body)
    if answer.status_code != 201:
        print(f"POST {path}: {answer.status_code} {answer.text}", file=sys.stderr)
        return NOTHING + next(serial)
    given[kind].add(answer.json()["id"])
    return answer.json()["id"]


def new_user():
    name = f"guinea-pig-{next(serial)}"
    return name, make("users", "/api/admin/users", ADMIN, {"username": name, "password": PASSWORD})


def some_user():
    """One that may be changed, but is not deleted."""
    if not kept_users:
        kept_users.append(new_user())
    return kept_users[0]


def account():
    """The name of one that stays as it is."""
    if not accounts:
        accounts.append(new_user()[0])
    return accounts[0]


def new_session():
    name, _ = new_user()
    return call("POST", "/api/auth/login", None, {"username": name, "password": PASSWORD}).json()["token"]


def keep_vm(number):
    given["vms"].add(number)
    kept_vms.append(number)
    while len(kept_vms) > KEPT:
        call("DELETE", f"/api/vms/{kept_vms.popleft()}", CALLER)


def new_vm():
    body = {"name": f"guinea pig {next(serial)}", "cpu": 1, "memory": 16, "disk": 16, "start": False}
    number = make("vms", "/api/vms", CALLER, body)
    keep_vm(number)
    return number


def some_vm():
    return kept_vms[-1] if kept_vms else new_vm()


def new_snapshot():
    return make("snapshots", f"/api/vms/{some_vm()}/snapshots", CALLER, {"name": f"guinea pig {next(serial)}"})


def new_image():
    """The name of an image that can be uploaded or deleted; the sum is that of no file."""
    name = f"guinea-pig-{next(serial)}"
    answer = call("POST", "/api/images", ADMIN, {"name": name, "sha256": f"{next(serial):064x}", "format": "raw"})
    if answer.status_code != 201:
        print(f"POST /api/images: {answer.status_code} {answer.text}", file=sys.stderr)
    return name


def kind_of(path):
    for kind in ("vms", "snapshots", "users"):
        if f"/{kind}/{{id}}" in path:
            return kind
    return None


def operation_id(case):
    return case.operation.definition.raw.get("operationId")


def something(case, kind):
    """A number of something that is there, or of nothing, in turns."""
    turns[case.operation.label] += 1
    if turns[case.operation.label] % 2 == 0:
        return NOTHING + next(serial)
    if kind == "users":
        return new_user()[1] if operation_id(case) == "delete_user" else some_user()[1]
    if kind == "snapshots":
        return new_snapshot()
    return new_vm() if operation_id(case) in ("delete_vm", "act_on_vm") else some_vm()


def is_negative(case, location):
    return case.meta is not None and case.meta.is_negative_at(location)


def exchanged(case, kind, number):
    try:
        if int(number) in given[kind] or int(number) > NOTHING:
            return number
    except (TypeError, ValueError):
        return number
    return something(case, kind)


@schemathesis.auth(refresh_interval=None)
class Sessions:
    def get(self, case, context):
        return new_session() if operation_id(case) in ENDS_SESSIONS else CALLER

    def set(self, case, token, context):
        case.headers["authorization"] = f"Bearer {token}"


@schemathesis.hook
def before_call(context, case, kwargs):
    kind = kind_of(case.operation.path)
    if kind and not is_negative(case, ParameterLocation.PATH) and "id" in case.path_parameters:
        case.path_parameters["id"] = exchanged(case, kind, case.path_parameters["id"])
    if operation_id(case) in ("upload_image", "delete_image"):
        turns[case.operation.label] += 1
        # Every other one names nothing.
        if turns[case.operation.label] % 2 == 0:
            case.path_parameters["name"] = new_image()
        if isinstance(case.query, dict):
            case.query.pop("host", None)
    if isinstance(case.query, dict) and not is_negative(case, ParameterLocation.QUERY):
        for name, of in (("vm_id", "vms"), ("id", "vms"), ("user_id", "users")):
            if name in case.query:
                case.query[name] = exchanged(case, of, case.query[name])
    if isinstance(case.body, dict) and not is_negative(case, ParameterLocation.BODY):
        before_body(case)
    # As many clients as requests, or all but the first few registrations and logins would be throttled.
    if operation_id(case) in ("register", "login"):
        case.headers["x-forwarded-for"] = f"198.51.100.{next(serial) % 250 + 1}"


def before_body(case):
    operation = operation_id(case)
    if operation == "set_quota" and isinstance(case.body.get("user_id"), int):
        case.body["user_id"] = exchanged(case, "users", case.body["user_id"])
    turns[operation] += 1
    if turns[operation] % 2 == 0:
        return
    if operation == "login":
        case.body.update(username=account(), password=PASSWORD)
    elif operation == "change_password":
        case.body["current_password"] = PASSWORD


@schemathesis.hook
def after_call(context, case, response):
    if response.status_code != 201:
        return
    operation = operation_id(case)
    number = response.json().get("id")
    if operation in ("create_vm", "clone_vm"):
        keep_vm(number)
    elif operation == "create_snapshot":
        given["snapshots"].add(number)
    elif operation == "create_user":
        given["users"].add(number)
