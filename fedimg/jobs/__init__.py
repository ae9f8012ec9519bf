"""Jobs: the queue, retries, semaphores, durable steps, and what a job records.

The package knows the queue's library (DBOS) and the rules by which a job runs again. It does not
know how an image is published: `worker.job_workflows` joins it with `services`.
"""
