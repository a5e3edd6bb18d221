//! `bdev_malloc_*`, `bdev_null_*`, `bdev_aio_*`, `bdev_uring_*`.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::rc::Rc;

use vda_spdk::{
    BdevAioCreate, BdevAioDelete, BdevAioRescan, BdevMallocCreate, BdevMallocDelete, BdevNullCreate,
    BdevNullDelete, BdevNullResize, BdevUringCreate, BdevUringDelete, BdevUringRescan, Errno,
};

use crate::app::App;
use crate::bdev::file::{FileBdevs, FileIo, FileModule, FileParams};
use crate::bdev::malloc::{self, MallocParams};
use crate::bdev::null::{self, NullHandle, NullParams};
use crate::rpc::{Methods, RpcError, State};

pub(super) fn register(methods: &mut Methods, app: &Rc<App>) {
    methods.method::<BdevMallocCreate>(State::Runtime, async |app, call| create_malloc(&app, call));
    methods.method::<BdevMallocDelete>(State::Runtime, async |app, call| {
        app.bdevs.unregister(&call.name, malloc::MODULE)?.await;
        Ok(true)
    });
    register_null(methods);
    let io = FileIo { cache: app.file_cache.get(), ..FileIo::default() };
    register_files(methods, &Rc::new(FileBdevs::with(app.bdevs.clone(), io)));
}

/// There is no per-block metadata here: asking for it is an error, not something to overlook.
fn without_metadata(md_size: Option<u32>, dif_type: Option<i32>) -> Result<(), RpcError> {
    if md_size.unwrap_or(0) != 0 || dif_type.unwrap_or(0) != 0 {
        tracing::info!(
            "md_size and dif_type must be 0: metadata and protection information are not supported"
        );
        return Err(RpcError::errno(Errno::EINVAL));
    }
    Ok(())
}

/// A hint, but SPDK looks at it.
fn physical_block_size(bytes: Option<u32>) -> Result<(), RpcError> {
    match bytes.unwrap_or(0) % 512 {
        0 => Ok(()),
        _ => Err(RpcError::errno(Errno::EINVAL)),
    }
}

fn create_malloc(app: &App, call: BdevMallocCreate) -> Result<String, RpcError> {
    physical_block_size(call.physical_block_size)?;
    if call.num_blocks > 0 && call.block_size == 0 {
        // SPDK looks for memory of no size, and finds none.
        return Err(RpcError::errno(Errno(libc::ENOMEM)));
    }
    without_metadata(call.md_size, call.dif_type)?;
    let params = MallocParams {
        name: call.name,
        num_blocks: call.num_blocks,
        block_size: call.block_size,
        uuid: call.uuid,
    };
    Ok(malloc::create(&app.bdevs, params)?.name().to_owned())
}

fn register_null(methods: &mut Methods) {
    let handles: Rc<RefCell<BTreeMap<String, NullHandle>>> = Rc::default();
    let nulls = Rc::clone(&handles);
    methods.method::<BdevNullCreate>(State::Runtime, async move |app, call| {
        without_metadata(call.md_size, call.dif_type)?;
        physical_block_size(call.physical_block_size)?;
        let params = NullParams {
            name: call.name.clone(),
            num_blocks: call.num_blocks,
            block_size: call.block_size,
            uuid: call.uuid,
        };
        let handle = null::create(&app.bdevs, params)?;
        nulls.borrow_mut().insert(call.name.clone(), handle);
        Ok(call.name)
    });
    let nulls = Rc::clone(&handles);
    methods.method::<BdevNullDelete>(State::Runtime, async move |app, call| {
        let name = app.bdevs.canonical_name(&call.name)?;
        app.bdevs.unregister(&name, null::MODULE)?.await;
        nulls.borrow_mut().remove(&name);
        Ok(true)
    });
    methods.method::<BdevNullResize>(State::Runtime, async move |app, call| {
        let name = app.bdevs.canonical_name(&call.name)?;
        let handle = handles.borrow().get(&name).cloned();
        // SPDK: a bdev of another module.
        handle.ok_or_else(|| RpcError::errno(Errno::EINVAL))?.resize(call.new_size)?;
        Ok(true)
    });
}

fn register_files(methods: &mut Methods, files: &Rc<FileBdevs>) {
    let f = Rc::clone(files);
    methods.method::<BdevAioCreate>(State::Runtime, async move |_, call| {
        let params = FileParams {
            module: FileModule::Aio,
            name: call.name,
            filename: call.filename,
            block_size: call.block_size,
            readonly: call.readonly.unwrap_or(false),
            fallocate: call.fallocate.unwrap_or(false),
            uuid: call.uuid,
        };
        Ok(f.create(params)?.name().to_owned())
    });
    let f = Rc::clone(files);
    methods.method::<BdevAioRescan>(State::Runtime, async move |_, call| {
        f.rescan(FileModule::Aio, &call.name)?;
        Ok(true)
    });
    let f = Rc::clone(files);
    methods.method::<BdevAioDelete>(State::Runtime, async move |_, call| {
        f.delete(FileModule::Aio, &call.name)?.await;
        Ok(true)
    });
    let f = Rc::clone(files);
    methods.method::<BdevUringCreate>(State::Runtime, async move |_, call| {
        let params = FileParams {
            module: FileModule::Uring,
            name: call.name,
            filename: call.filename,
            block_size: call.block_size,
            readonly: false,
            fallocate: false,
            uuid: call.uuid,
        };
        let refused = |refusal| {
            // SPDK says no more than that; the log says the rest.
            tracing::info!(%refusal, "bdev call refused");
            RpcError::internal("Unable to create URING bdev.")
        };
        Ok(f.create(params).map_err(refused)?.name().to_owned())
    });
    let f = Rc::clone(files);
    methods.method::<BdevUringRescan>(State::Runtime, async move |_, call| {
        f.rescan(FileModule::Uring, &call.name)?;
        Ok(true)
    });
    let f = Rc::clone(files);
    methods.method::<BdevUringDelete>(State::Runtime, async move |_, call| {
        f.delete(FileModule::Uring, &call.name)?.await;
        Ok(true)
    });
}
