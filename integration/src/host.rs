//! A host: `vda_host`, the userspace NVMe/TCP initiator.
