//! `bdev_delay_*`, `bdev_error_*`.

use std::rc::Rc;

use vda_spdk::{
    BdevDelayCreate, BdevDelayDelete, BdevDelayUpdateLatency, BdevErrorCreate, BdevErrorDelete,
    BdevErrorInjectError, BdevErrorResumePending, DelayLatency, Errno, ErrorType,
};

use crate::app::App;
use crate::bdev::delay::{DelayBdevs, DelayParams, Latencies};
use crate::bdev::inject::{ErrorBdevs, ErrorParams, Injection};
use crate::rpc::{Methods, RpcError, State, config};

pub(super) fn register(methods: &mut Methods, app: &Rc<App>) {
    let (delays, errors) = (DelayBdevs::new(app.bdevs.clone()), ErrorBdevs::new(app.bdevs.clone()));
    register_delay(methods, &delays);
    register_error(methods, &errors);
    methods.config_parts(move |_| (Vec::new(), config::waiting_parts(&delays.waiting(), &errors.waiting())));
}

fn register_delay(methods: &mut Methods, delays: &Rc<DelayBdevs>) {
    let d = Rc::clone(delays);
    methods.method::<BdevDelayCreate>(State::Runtime, async move |_, call| {
        let latencies = Latencies {
            avg_read: call.avg_read_latency,
            p99_read: call.p99_read_latency,
            avg_write: call.avg_write_latency,
            p99_write: call.p99_write_latency,
        };
        let (name, base_bdev_name) = (call.name.clone(), call.base_bdev_name);
        d.create(DelayParams { name, base_bdev_name, latencies, uuid: call.uuid })?;
        Ok(call.name)
    });
    let d = Rc::clone(delays);
    methods.method::<BdevDelayUpdateLatency>(State::Runtime, async move |_, call| {
        let updated = d.update(&call.delay_bdev_name, |l| {
            *match call.latency_type {
                DelayLatency::AvgRead => &mut l.avg_read,
                DelayLatency::P99Read => &mut l.p99_read,
                DelayLatency::AvgWrite => &mut l.avg_write,
                DelayLatency::P99Write => &mut l.p99_write,
            } = call.latency_us;
        });
        updated.map_err(|_| RpcError::invalid_params("The requested bdev does not exist."))?;
        Ok(true)
    });
    let d = Rc::clone(delays);
    methods.method::<BdevDelayDelete>(State::Runtime, async move |_, call| {
        d.delete(&call.name)?.await;
        Ok(true)
    });
}

fn register_error(methods: &mut Methods, errors: &Rc<ErrorBdevs>) {
    let e = Rc::clone(errors);
    methods.method::<BdevErrorCreate>(State::Runtime, async move |_, call| {
        e.create(ErrorParams { base_name: call.base_name, uuid: call.uuid })?;
        Ok(true)
    });
    let e = Rc::clone(errors);
    methods.method::<BdevErrorInjectError>(State::Runtime, async move |_, call| {
        let (sct, sc) = (call.nvme_sct.unwrap_or(0), call.nvme_sc.unwrap_or(0));
        if (call.error_type == ErrorType::NvmeFailure) == (sct == 0 && sc == 0) {
            let message = "nvme_sct or nvme_sc should be specified for NVMe error injection";
            return Err(RpcError::new(Errno::EINVAL.code(), message));
        }
        let byte = |v: u32| u8::try_from(v).map_err(|_| RpcError::errno(Errno::EINVAL));
        let injection = Injection {
            error: call.error_type,
            num: call.num.unwrap_or(1),
            queue_depth: call.queue_depth.unwrap_or(0),
            nvme: (byte(sct)?, byte(sc)?),
            corrupt: (call.corrupt_offset.unwrap_or(0), call.corrupt_value.unwrap_or(0)),
        };
        e.inject(&call.name, call.io_type, injection)?;
        Ok(true)
    });
    let e = Rc::clone(errors);
    methods.method::<BdevErrorResumePending>(State::Runtime, async move |_, call| {
        e.resume(&call.name)?;
        Ok(true)
    });
    let e = Rc::clone(errors);
    methods.method::<BdevErrorDelete>(State::Runtime, async move |_, call| {
        e.delete(&call.name)?.await;
        Ok(true)
    });
}
