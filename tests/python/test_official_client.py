"""The official Taskcluster client for Python, unchanged, against a queue that speaks the same API.

Reads TASKCLUSTER_ROOT_URL, TASKCLUSTER_CLIENT_ID and TASKCLUSTER_ACCESS_TOKEN, as the client itself does. With
TCW_TEST_TASK_ID, it also fetches the log of that task, which has to have ended, and looks for TCW_TEST_LOG_TEXT in it;
with TCW_TEST_POOL it has a worker of that pool run a task.

    python3 -m unittest tests/python/test_official_client.py
"""

import datetime
import gzip
import os
import time
import unittest

import requests
import taskcluster
import taskcluster.download

LOG = "public/logs/live_backing.log"
# No worker serves this pool, so that tasks in it stay as they were created.
POOL = "tcw-test/nobody"


def queue():
    """A client in the name of the environment's credentials."""
    return taskcluster.Queue(taskcluster.optionsFromEnvironment())


def task_definition(**changes):
    """The smallest task there is."""
    now = datetime.datetime.now(datetime.timezone.utc)
    return {
        "taskQueueId": POOL,
        "created": taskcluster.stringDate(now),
        "deadline": taskcluster.stringDate(now + datetime.timedelta(hours=1)),
        "payload": {},
        "metadata": {
            "name": "official client",
            "description": "made by the official client",
            "owner": "nobody@example.com",
            "source": "https://example.com",
        },
        **changes,
    }


def fetch_log_by_redirect(task_id):
    """The log's text, by following getLatestArtifact's redirect."""
    url = queue().buildUrl("getLatestArtifact", task_id, LOG)
    response = requests.get(url, timeout=60)
    response.raise_for_status()
    return response.text


def fetch_log_by_helper(task_id):
    """The log's text, with the download helper that comes with the client."""
    content, _ = taskcluster.download.downloadArtifactToBuf(taskId=task_id, name=LOG, queueService=queue())
    content = bytes(content)
    # The helper hands out what is stored, and logs may be stored compressed.
    if content.startswith(b"\x1f\x8b"):
        content = gzip.decompress(content)
    return content.decode()


class OfficialClient(unittest.TestCase):
    """What somebody does who has this client and a root URL."""

    def test_ping(self):
        self.assertTrue(queue().ping()["alive"])

    def test_a_task_is_created_looked_at_and_cancelled(self):
        task_id = taskcluster.slugId()
        created = queue().createTask(task_id, task_definition(tags={"a": "b"}))["status"]
        self.assertEqual((created["taskId"], created["state"]), (task_id, "pending"))
        self.assertEqual(queue().createTask(task_id, queue().task(task_id))["status"], created)
        self.assertEqual(queue().status(task_id)["status"], created)
        self.assertEqual(queue().task(task_id)["tags"], {"a": "b"})
        self.assertEqual(queue().listLatestArtifacts(task_id), {"artifacts": []})
        found = queue().statuses({"taskIds": [task_id]})["statuses"]
        self.assertEqual(found, [{"taskId": task_id, "status": created}])
        cancelled = queue().cancelTask(task_id)["status"]
        self.assertEqual(cancelled["runs"][0]["reasonResolved"], "canceled")

    def test_a_page_at_a_time(self):
        """Query parameters are part of what is signed."""
        ids = [taskcluster.slugId() for _ in range(3)]
        for task_id in ids:
            queue().createTask(task_id, task_definition())
        found = []
        queue().statuses(
            payload={"taskIds": ids},
            query={"limit": "2"},
            paginationHandler=lambda page: found.append(len(page["statuses"])),
        )
        self.assertEqual(found, [2, 1])
        for task_id in ids:
            queue().cancelTask(task_id)

    def test_temporary_credentials_do_what_they_are_for(self):
        root = taskcluster.optionsFromEnvironment()
        now = datetime.datetime.now(datetime.timezone.utc)
        task_id = taskcluster.slugId()
        temporary = taskcluster.createTemporaryCredentials(
            root["credentials"]["clientId"],
            root["credentials"]["accessToken"],
            now,
            now + datetime.timedelta(minutes=10),
            ["queue:create-task:lowest:" + POOL, "queue:create-task:project:none", "queue:scheduler-id:-"],
            name="somebody",
        )
        limited = taskcluster.Queue({"rootUrl": root["rootUrl"], "credentials": temporary})
        limited.createTask(task_id, task_definition())
        with self.assertRaises(taskcluster.exceptions.TaskclusterRestFailure) as refused:
            limited.cancelTask(task_id)
        self.assertEqual(refused.exception.status_code, 403)
        queue().cancelTask(task_id)

    def test_a_signed_url_works_without_credentials(self):
        task_id = taskcluster.slugId()
        queue().createTask(task_id, task_definition())
        response = requests.get(queue().buildSignedUrl("status", task_id), timeout=60)
        self.assertEqual((response.status_code, response.json()["status"]["taskId"]), (200, task_id))
        queue().cancelTask(task_id)

    def test_a_refusal_says_what_is_wrong(self):
        with self.assertRaises(taskcluster.exceptions.TaskclusterRestFailure) as refused:
            queue().createTask(taskcluster.slugId(), task_definition(nonsense=1))
        self.assertEqual(refused.exception.status_code, 400)
        self.assertEqual(refused.exception.body["code"], "InputValidationError")
        self.assertIn("nonsense", str(refused.exception))

    @unittest.skipUnless("TCW_TEST_TASK_ID" in os.environ, "TCW_TEST_TASK_ID is not set")
    def test_the_log_of_a_task(self):
        self.check_log(os.environ["TCW_TEST_TASK_ID"], os.environ.get("TCW_TEST_LOG_TEXT", ""))

    @unittest.skipUnless("TCW_TEST_POOL" in os.environ, "TCW_TEST_POOL, a pool that a worker serves, is not set")
    def test_a_task_runs_and_its_log_and_artifact_are_fetched(self):
        task_id = taskcluster.slugId()
        payload = {
            "maxRunTime": 60,
            "env": {"GREETING": "hello from Python"},
            "command": [["/bin/sh", "-c", 'echo "$GREETING"; echo "in a file" > file.txt']],
            "artifacts": [{"type": "file", "path": "file.txt", "name": "public/file.txt"}],
        }
        queue().createTask(task_id, task_definition(taskQueueId=os.environ["TCW_TEST_POOL"], payload=payload))
        self.assertEqual(self.resolved(task_id)["state"], "completed")
        self.check_log(task_id, "\nhello from Python\n")
        response = requests.get(queue().buildUrl("getLatestArtifact", task_id, "public/file.txt"), timeout=60)
        self.assertEqual(response.text, "in a file\n")

    def resolved(self, task_id):
        """The task's status once it is resolved; fails after a minute."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            status = queue().status(task_id)["status"]
            if status["state"] not in ("unscheduled", "pending", "running"):
                return status
            time.sleep(0.05)
        raise AssertionError(f"task {task_id} is not resolved: {status}")

    def check_log(self, task_id, text):
        """The log can be had in both ways, and holds the text."""
        log = fetch_log_by_redirect(task_id)
        self.assertIn(text, log)
        self.assertEqual(fetch_log_by_helper(task_id), log)
        names = [artifact["name"] for artifact in queue().listLatestArtifacts(task_id)["artifacts"]]
        self.assertIn(LOG, names)


class OfficialAuthClient(unittest.TestCase):
    """Clients that last, made and deleted by the official client of the Auth service."""

    def test_a_client_is_made_used_reset_and_deleted(self):
        auth = taskcluster.Auth(taskcluster.optionsFromEnvironment())
        name = f"official/{taskcluster.slugId()}"
        expires = taskcluster.fromNow("1 hour")
        made = auth.createClient(
            name, {"description": "d", "expires": expires, "scopes": ["queue:pending-count:*"]}
        )
        self.addCleanup(auth.deleteClient, name)
        self.assertNotIn("accessToken", auth.client(name))
        self.assertIn(name, [client["clientId"] for client in auth.listClients(query={"prefix": "official/"})["clients"]])

        def pending(token):
            options = {
                "rootUrl": os.environ["TASKCLUSTER_ROOT_URL"],
                "credentials": {"clientId": name, "accessToken": token},
            }
            return taskcluster.Queue(options).pendingTasks(POOL)["pendingTasks"]

        pending(made["accessToken"])
        reset = auth.resetAccessToken(name)
        with self.assertRaises(taskcluster.exceptions.TaskclusterAuthFailure):
            pending(made["accessToken"])
        pending(reset["accessToken"])
        auth.deleteClient(name)
        with self.assertRaises(taskcluster.exceptions.TaskclusterAuthFailure):
            pending(reset["accessToken"])


if __name__ == "__main__":
    unittest.main()
