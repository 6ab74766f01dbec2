"""Eight devices for every test: sharded code is tested on CPU as it runs on a pod."""

import os

os.environ["XLA_FLAGS"] = (
    os.environ.get("XLA_FLAGS", "") + " --xla_force_host_platform_device_count=8"
)
