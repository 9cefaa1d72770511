//! Volumes and what fills them.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use tcw_abi::engine::*;
use tcw_abi::io::Handle;
use tcw_abi::{Result, async_trait};

use crate::Wrong;

pub(crate) struct WrongVolume(pub(crate) Wrong, pub(crate) Arc<dyn Volume>);

#[async_trait]
impl Volume for WrongVolume {
    fn description(&self) -> VolumeDescription {
        self.1.description()
    }

    async fn size(&self) -> Result<u64> {
        self.1.size().await
    }

    async fn dispose(&self) -> Result<()> {
        if self.0 == Wrong::DisposedVolumesStay {
            return Ok(());
        }
        self.1.dispose().await
    }
}

pub(crate) struct WrongVolumeBuilder {
    wrong: Wrong,
    inner: Arc<dyn VolumeBuilder>,
    built: AtomicBool,
}

impl WrongVolumeBuilder {
    pub(crate) fn new(wrong: Wrong, inner: Arc<dyn VolumeBuilder>) -> Self {
        WrongVolumeBuilder {
            wrong,
            inner,
            built: AtomicBool::new(false),
        }
    }

    fn path(&self, path: String) -> String {
        match self.wrong {
            Wrong::PathsAreStripped => path.replace("../", ""),
            _ => path,
        }
    }
}

#[async_trait]
impl VolumeBuilder for WrongVolumeBuilder {
    async fn write_folder(&self, path: String) -> Result<()> {
        if self.wrong == Wrong::BuildsAgain && self.built.load(Ordering::Acquire) {
            return Ok(());
        }
        self.inner.write_folder(self.path(path)).await
    }

    async fn write_file(&self, path: String, mode: u32) -> Result<Handle> {
        let mode = if self.wrong == Wrong::ModesAreLost {
            0o644
        } else {
            mode
        };
        self.inner.write_file(self.path(path), mode).await
    }

    async fn build(&self) -> Result<Arc<dyn Volume>> {
        let volume = self.inner.build().await?;
        self.built.store(true, Ordering::Release);
        Ok(volume)
    }

    async fn discard(&self) -> Result<()> {
        self.inner.discard().await
    }
}
