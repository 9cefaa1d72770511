"""Every function of the official Taskcluster client for Python, synchronous and `asyncio`, against a queue that speaks the
same API: one scene in which all of them have their part.

Reads TASKCLUSTER_ROOT_URL, TASKCLUSTER_CLIENT_ID and TASKCLUSTER_ACCESS_TOKEN, as the client itself does.

    python3 -m unittest tests/python/test_every_call.py
"""

import asyncio
import datetime
import unittest

import requests
import taskcluster
import taskcluster.aio

# A worker type for each kind of client, which nobody else serves.
PROVISIONER = "tcw-test"
WORKER = ("group", "worker")

# What this client has and the published reference of the queue has not.
NEWER = {"taskQueueCountsBatch"}


def from_now(**time):
    """A time to come, as the API writes it."""
    return taskcluster.stringDate(datetime.datetime.now(datetime.timezone.utc) + datetime.timedelta(**time))


class Scene:
    """What the calls are about, and which have been made."""

    def __init__(self, queue, worker_type):
        self.queue = queue
        self.worker_type = worker_type
        self.pool = f"{PROVISIONER}/{worker_type}"
        self.called = set()

    async def call(self, name, *arguments, **options):
        """Makes a call with whichever kind of client this is."""
        self.called.add(name)
        answer = getattr(self.queue, name)(*arguments, **options)
        return await answer if asyncio.iscoroutine(answer) else answer

    async def refused(self, status, name, *arguments):
        """Makes a call that is answered with an error."""
        try:
            answer = await self.call(name, *arguments)
        except taskcluster.exceptions.TaskclusterRestFailure as error:
            assert error.status_code == status, error
            # An artifact that is an error is answered with no code, but with its reason.
            assert error.body["reason" if status == 424 else "code"] and error.body["message"], error.body
        else:
            raise AssertionError(f"{name} answered {answer}")

    async def create(self, **changes):
        """A new task."""
        task_id = taskcluster.slugId()
        definition = {
            "taskQueueId": self.pool,
            "created": from_now(),
            "deadline": from_now(hours=1),
            "payload": {},
            "metadata": {
                "name": "every call",
                "description": "made by the official client",
                "owner": "nobody@example.com",
                "source": "https://example.com",
            },
            **changes,
        }
        await self.call("createTask", task_id, definition)
        return task_id

    async def claim(self):
        """Claims one run."""
        claim = {"workerGroup": WORKER[0], "workerId": WORKER[1], "tasks": 1}
        return (await self.call("claimWork", self.pool, claim))["tasks"][0]

    async def play(self):
        """All of it."""
        await self.monitoring()
        task_id = await self.one_task()
        await self.artifacts(task_id)
        await self.ends(task_id)
        await self.workers_and_queues()
        await self.groups()

    async def monitoring(self):
        assert (await self.call("ping"))["alive"]
        assert (await self.call("version"))["version"]
        await self.call("heartbeat")
        await self.call("lbheartbeat")

    async def one_task(self):
        task_id = await self.create()
        assert (await self.call("task", task_id))["taskQueueId"] == self.pool
        assert (await self.call("status", task_id))["status"]["state"] == "pending"
        ids = {"taskIds": [task_id]}
        assert (await self.call("tasks", ids))["tasks"][0]["taskId"] == task_id
        assert (await self.call("statuses", ids))["statuses"][0]["taskId"] == task_id
        assert (await self.call("scheduleTask", task_id))["status"]["state"] == "pending"
        assert (await self.call("changeTaskPriority", task_id, {"newPriority": "high"}))["status"]["priority"] == "high"
        assert (await self.call("pendingTasks", self.pool))["pendingTasks"] == 1
        assert (await self.claim())["status"]["taskId"] == task_id
        await self.call("reclaimTask", task_id, 0)
        return task_id

    async def artifacts(self, task_id):
        for name, artifact in {
            "public/file.txt": {"storageType": "s3", "contentType": "text/plain"},
            "public/elsewhere": {"storageType": "reference", "contentType": "a/b", "url": "https://example.com"},
            "public/link": {"storageType": "link", "artifact": "public/file.txt"},
            "public/why-not": {"storageType": "error", "reason": "file-missing-on-worker", "message": "it is not there"},
        }.items():
            created = await self.call("createArtifact", task_id, 0, name, {"expires": from_now(hours=1), **artifact})
            if artifact["storageType"] == "s3":
                requests.put(created["putUrl"], data=b"content", timeout=60).raise_for_status()
        await self.refused(400, "createArtifact", task_id, 0, "public/o", {
            "storageType": "object", "contentType": "a/b", "expires": from_now(hours=1),
        })
        await self.refused(400, "finishArtifact", task_id, 0, "public/file.txt", {"uploadId": taskcluster.slugId()})
        for one, latest in (("artifact", "latestArtifact"), ("artifactInfo", "latestArtifactInfo")):
            answers = [await self.call(one, task_id, 0, "public/link"), await self.call(latest, task_id, "public/link")]
            assert {answer["storageType"] for answer in answers} == {"s3" if one == "artifact" else "link"}, answers
        error = await self.call("artifact", task_id, 0, "public/why-not")
        assert (error["storageType"], error["message"]) == ("error", "it is not there")
        await self.refused(424, "getArtifact", task_id, 0, "public/why-not")
        url = (await self.call("latestArtifact", task_id, "public/link"))["url"]
        assert requests.get(url, timeout=60).text == "content"
        part = requests.get(url, headers={"Range": "bytes=3-5"}, timeout=60)
        assert (part.status_code, part.text) == (206, "ten")
        for name, arguments in {"getArtifact": (task_id, 0), "getLatestArtifact": (task_id,)}.items():
            # The client either follows the redirect to the content, or hands out where that is.
            answer = await self.call(name, *arguments, "public/file.txt")
            assert "response" in answer or answer["storageType"] == "s3", answer
        for name, arguments in {"listArtifacts": (task_id, 0), "listLatestArtifacts": (task_id,)}.items():
            pages = []
            await self.call(name, *arguments, query={"limit": 3}, paginationHandler=pages.append)
            assert [len(page["artifacts"]) for page in pages] == [3, 1], pages

    async def ends(self, task_id):
        await self.call("reportException", task_id, 0, {"reason": "worker-shutdown"})
        worker = {"workerGroup": WORKER[0], "workerId": WORKER[1]}
        assert (await self.call("claimTask", task_id, 1, worker))["runId"] == 1
        assert (await self.call("reportFailed", task_id, 1))["status"]["state"] == "failed"
        await self.call("rerunTask", task_id)
        await self.claim()
        assert (await self.call("reportCompleted", task_id, 2))["status"]["state"] == "completed"
        await self.call("rerunTask", task_id)
        assert (await self.call("cancelTask", task_id))["status"]["state"] == "exception"

    async def workers_and_queues(self):
        running = await self.create()
        pending = await self.create()
        assert (await self.claim())["status"]["taskId"] == running
        counts = await self.call("taskQueueCounts", self.pool)
        assert (counts["pendingTasks"], counts["claimedTasks"]) == (1, 1), counts
        assert (await self.call("listPendingTasks", self.pool))["tasks"][0]["taskId"] == pending
        assert (await self.call("listClaimedTasks", self.pool))["tasks"][0]["taskId"] == running
        pools = [queue["taskQueueId"] for queue in (await self.call("listTaskQueues"))["taskQueues"]]
        assert self.pool in pools, pools
        assert (await self.call("getTaskQueue", self.pool))["taskQueueId"] == self.pool
        provisioners = [entry["provisionerId"] for entry in (await self.call("listProvisioners"))["provisioners"]]
        assert PROVISIONER in provisioners, provisioners
        await self.call("getProvisioner", PROVISIONER)
        types = [entry["workerType"] for entry in (await self.call("listWorkerTypes", PROVISIONER))["workerTypes"]]
        assert self.worker_type in types, types
        name = (PROVISIONER, self.worker_type)
        assert (await self.call("getWorkerType", *name))["workerType"] == self.worker_type
        worker = (await self.call("listWorkers", *name))["workers"][0]
        assert worker["latestTask"] == {"taskId": running, "runId": 0}, worker
        assert (await self.call("getWorker", *name, *WORKER))["recentTasks"][-1]["taskId"] == running
        await self.call("declareWorker", *name, "group", "another", {"expires": from_now(days=2)})
        until = from_now(hours=1)
        await self.call("quarantineWorker", *name, "group", "another", {"quarantineUntil": until})
        listed = (await self.call("listWorkers", *name, query={"quarantined": "true"}))["workers"]
        assert [worker["workerId"] for worker in listed] == ["another"], listed
        for task_id in (running, pending):
            await self.call("cancelTask", task_id)

    async def groups(self):
        first = await self.create()
        second = await self.create(taskGroupId=first, dependencies=[first])
        dependents = (await self.call("listDependentTasks", first))["tasks"]
        assert [entry["status"]["taskId"] for entry in dependents] == [second], dependents
        pages = []
        await self.call("listTaskGroup", first, query={"limit": 1}, paginationHandler=pages.append)
        assert [len(page["tasks"]) for page in pages] == [1, 1], pages
        changed = await self.call("changeTaskGroupPriority", first, {"newPriority": "low"})
        assert changed["tasksAffected"] == 2, changed
        await self.refused(409, "cancelTaskGroup", first)
        sealed = await self.call("sealTaskGroup", first)
        assert await self.call("getTaskGroup", first) == sealed
        assert (await self.call("cancelTaskGroup", first))["cancelledCount"] == 2


class EveryCall(unittest.TestCase):
    """What somebody does who has this client and a root URL."""

    def check_all_called(self, scene):
        self.assertEqual(scene.called | NEWER, set(taskcluster.Queue.funcinfo))

    def test_with_the_synchronous_client(self):
        queue = taskcluster.Queue(taskcluster.optionsFromEnvironment())
        scene = Scene(queue, "synchronous")
        asyncio.run(scene.play())
        self.check_all_called(scene)

    def test_with_the_asynchronous_client(self):
        async def play():
            async with taskcluster.aio.createSession() as session:
                queue = taskcluster.aio.Queue(taskcluster.optionsFromEnvironment(), session=session)
                scene = Scene(queue, "asynchronous")
                await scene.play()
                return scene

        self.check_all_called(asyncio.run(play()))

    def test_what_the_queue_does_not_have_is_said(self):
        queue = taskcluster.Queue(taskcluster.optionsFromEnvironment())
        for name in NEWER:
            with self.assertRaises(taskcluster.exceptions.TaskclusterRestFailure) as refused:
                getattr(queue, name)({})
            self.assertEqual(refused.exception.status_code, 404)
            self.assertEqual(refused.exception.body["code"], "ResourceNotFound")


if __name__ == "__main__":
    unittest.main()
