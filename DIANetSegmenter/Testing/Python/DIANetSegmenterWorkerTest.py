# SPDX-License-Identifier: Apache-2.0
"""Inside Slicer: the worker as a process of Qt's starts, answers, is killed and stops. Needs no torch."""

import time
import unittest

import slicer


class DIANetSegmenterWorkerTest(unittest.TestCase):
    def setUp(self):
        slicer.util.getModuleWidget("DIANetSegmenter")  # finds the library
        from DIANetGui.WorkerClient import WorkerClient

        self.events, self.lost, self.log = [], [], []
        self.client = WorkerClient()
        self.client.onEvent, self.client.onLost = self.events.append, self.lost.append
        self.client.onLog = self.log.append

    def tearDown(self):
        self.client.stop()

    def until(self, done, seconds=60.0):
        deadline = time.monotonic() + seconds
        while not done():
            if time.monotonic() > deadline:
                self.fail(f"It has not come to that; the log says: {self.log}")
            self.client.poll(0.05)

    def test_itStartsAndAnswers(self):
        from DIANetLib.worker import protocol

        self.client.start()
        self.assertTrue(self.client.running)
        self.until(lambda: self.events)
        self.assertIsInstance(self.events[0], protocol.Hello)
        self.assertEqual(self.events[0].protocol, protocol.PROTOCOL_VERSION)
        self.client.send(protocol.ListModels("models"))
        self.until(lambda: len(self.events) > 1)
        self.assertIn("hippocampus", [model.name for model in self.events[-1].payload.models])

    def test_aKilledWorkerIsToldAndANewOneStarts(self):
        self.client.start()
        self.until(lambda: self.events)
        self.client.kill()
        self.until(lambda: self.lost)
        self.assertFalse(self.client.running)
        self.events.clear()
        self.client.start()
        self.until(lambda: self.events)

    def test_stoppingRemovesTheFolderAndSaysNothing(self):
        self.client.start()
        self.until(lambda: self.events)
        folder = self.client.exchange.folder
        self.assertTrue(folder.is_dir())
        self.client.stop()
        self.assertFalse(folder.exists())
        self.assertFalse(self.client.running)
        self.assertEqual(self.lost, [])

    def test_aPythonThatIsNoneIsToldAsASentence(self):
        from DIANetGui.WorkerClient import WorkerClient

        from DIANetLib.errors import WorkerError

        client = WorkerClient("/no/such/python")
        with self.assertRaises(WorkerError):
            client.start()
        self.assertIsNone(client.exchange)


if __name__ == "__main__":
    unittest.main()
