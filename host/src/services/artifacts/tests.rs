use std::fs::File;
use std::io::{Read, Seek, SeekFrom, Write};
use std::path::Path;

use async_trait::async_trait;
use tokio::io::AsyncReadExt;

use super::*;
use crate::queue::{Credentials, ExceptionReason, Reclaimed, RunId, TaskId, TaskStatus, UploadBody};

type Meddling = Box<dyn Fn() + Send + Sync>;

/// A storage that keeps what it gets, or refuses it, and may do something to the file meanwhile.
#[derive(Default)]
struct Storage {
    refuse_create: Option<QueueError>,
    refuse_upload: Option<QueueError>,
    /// So many uploads are refused first.
    refuse_at_first: Mutex<Vec<QueueError>>,
    meddle: Option<Meddling>,
    stored: Mutex<Vec<(Upload, Vec<u8>)>>,
    created: Mutex<Vec<(String, ArtifactRequest)>>,
}

#[async_trait]
impl TaskQueue for Storage {
    fn task_id(&self) -> &TaskId {
        unreachable!()
    }
    fn run_id(&self) -> RunId {
        unreachable!()
    }
    fn credentials(&self) -> Credentials {
        unreachable!()
    }
    fn set_credentials(&self, _: Credentials) {}
    async fn reclaim(&self) -> Result<Reclaimed, QueueError> {
        unreachable!()
    }
    async fn report_completed(&self) -> Result<TaskStatus, QueueError> {
        unreachable!()
    }
    async fn report_failed(&self) -> Result<TaskStatus, QueueError> {
        unreachable!()
    }
    async fn report_exception(&self, _: ExceptionReason) -> Result<TaskStatus, QueueError> {
        unreachable!()
    }
    async fn create_artifact(
        &self,
        name: &str,
        request: &ArtifactRequest,
    ) -> Result<ArtifactCreated, QueueError> {
        if let Some(error) = &self.refuse_create {
            return Err(error.clone());
        }
        self.created
            .lock()
            .unwrap()
            .push((name.to_owned(), request.clone()));
        Ok(ArtifactCreated::S3 {
            put_url: format!("http://storage/{name}"),
            content_type: "as/announced".to_owned(),
            expires: Utc::now(),
        })
    }
    async fn upload(&self, upload: &Upload, body: UploadBody) -> Result<(), QueueError> {
        if let Some(error) = &self.refuse_upload {
            return Err(error.clone());
        }
        if let Some(error) = self.refuse_at_first.lock().unwrap().pop() {
            return Err(error);
        }
        let mut bytes = Vec::new();
        match body {
            UploadBody::Bytes(body) => bytes.extend_from_slice(&body),
            UploadBody::File(file) => {
                (&*file).rewind().unwrap();
                (&*file).read_to_end(&mut bytes).unwrap();
            }
            UploadBody::Pieces(begin) => {
                // The first attempt breaks off early.
                begin().recv().await.unwrap().unwrap();
                let mut pieces = begin();
                loop {
                    match pieces.recv().await.unwrap().unwrap() {
                        piece if piece.is_empty() => break,
                        piece => bytes.extend_from_slice(&piece),
                    }
                }
            }
            UploadBody::Reopen(mut open) => drop(open().unwrap().read_to_end(&mut bytes).await.unwrap()),
            UploadBody::Once(mut body) => drop(body.read_to_end(&mut bytes).await.unwrap()),
        }
        if let Some(meddle) = &self.meddle {
            meddle();
        }
        self.stored.lock().unwrap().push((upload.clone(), bytes));
        Ok(())
    }
    async fn signed_request(
        &self,
        _: reqwest::Method,
        _: reqwest::Url,
        _: reqwest::header::HeaderMap,
        _: reqwest::Body,
        _: Option<&[String]>,
    ) -> Result<reqwest::Response, QueueError> {
        unreachable!()
    }
}

fn artifacts(storage: Storage, scratch: &Path) -> (Artifacts, Arc<Storage>) {
    let storage = Arc::new(storage);
    let expires = Utc::now() + chrono::Duration::hours(1);
    let artifacts = Artifacts::new(Arc::clone(&storage) as _, expires, scratch.to_owned());
    (artifacts, storage)
}

fn upload(name: &str, encoding: ContentEncoding) -> ArtifactUpload {
    ArtifactUpload {
        name: name.to_owned(),
        content_type: "text/plain".to_owned(),
        content_encoding: encoding,
        ..ArtifactUpload::default()
    }
}

fn file_of(bytes: &[u8]) -> File {
    let mut file = tempfile::tempfile().unwrap();
    file.write_all(bytes).unwrap();
    file.seek(SeekFrom::Start(0)).unwrap();
    file
}

/// Not compressible to nothing, so that large bodies stay large.
fn noise(length: usize) -> Vec<u8> {
    let mut state = 1_u32;
    let next = |state: &mut u32| {
        *state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (*state >> 24) as u8
    };
    (0..length).map(|_| next(&mut state)).collect()
}

#[tokio::test]
async fn bytes_arrive_whole_in_every_size_and_encoding_and_are_in_the_ledger() {
    let scratch = tempfile::tempdir().unwrap();
    let (artifacts, storage) = artifacts(Storage::default(), scratch.path());
    for size in [0, 1, 1024 * 1024, 1024 * 1024 + 1, 3 * 1024 * 1024] {
        let bytes = noise(size);
        for encoding in [ContentEncoding::Identity, ContentEncoding::Gzip] {
            let record = artifacts
                .upload(upload("public/x", encoding), file_of(&bytes).into())
                .await
                .unwrap();
            let (sent, stored) = storage.stored.lock().unwrap().pop().unwrap();
            assert_eq!(sent.length, stored.len() as u64);
            assert_eq!(record.stored_length, sent.length);
            assert_eq!(sent.content_type, "as/announced");
            let original = match encoding {
                ContentEncoding::Identity => stored,
                ContentEncoding::Gzip => {
                    assert_eq!(sent.content_encoding.as_deref(), Some("gzip"));
                    let mut original = Vec::new();
                    flate2::read::GzDecoder::new(&stored[..])
                        .read_to_end(&mut original)
                        .unwrap();
                    original
                }
            };
            assert!(original == bytes, "{size} {encoding:?}");
            assert_eq!(record.length, size as u64);
            use sha2::Digest;
            assert_eq!(
                record.sha256,
                super::super::scratch::hex(&sha2::Sha256::digest(&bytes))
            );
            assert_eq!(artifacts.ledger().last(), Some(&record));
        }
    }
    assert_eq!(std::fs::read_dir(scratch.path()).unwrap().count(), 0);
}

#[tokio::test]
async fn reading_begins_where_the_handle_stands_and_streams_are_taken_to_their_end() {
    let scratch = tempfile::tempdir().unwrap();
    let (artifacts, storage) = artifacts(Storage::default(), scratch.path());
    let mut file = file_of(&noise(2 * 1024 * 1024));
    file.seek(SeekFrom::Start(5)).unwrap();
    artifacts
        .upload(upload("a", ContentEncoding::Identity), file.into())
        .await
        .unwrap();
    assert!(storage.stored.lock().unwrap()[0].1 == noise(2 * 1024 * 1024)[5..]);

    let (mut write, read) = std::os::unix::net::UnixStream::pair().unwrap();
    let writer = std::thread::spawn(move || write.write_all(&noise(2_000_000)).unwrap());
    artifacts
        .upload(upload("b", ContentEncoding::Identity), read.into())
        .await
        .unwrap();
    writer.join().unwrap();
    assert!(storage.stored.lock().unwrap()[1].1 == noise(2_000_000));
}

#[tokio::test]
async fn a_stream_that_stays_open_is_given_up_and_a_slow_one_is_not() {
    let scratch = tempfile::tempdir().unwrap();
    let (mut artifacts, storage) = artifacts(Storage::default(), scratch.path());
    artifacts.stall = Duration::from_millis(500);
    let slow = |mut write: File, pieces: u32| {
        std::thread::spawn(move || {
            for _ in 0..pieces {
                write.write_all(b"piece").unwrap();
                std::thread::sleep(Duration::from_millis(100));
            }
            write
        })
    };
    let pipe = || {
        let (read, write) = rustix::pipe::pipe().unwrap();
        (File::from(read), File::from(write))
    };
    let (read, write) = pipe();
    let writer = slow(write, 1);
    let error = artifacts
        .upload(upload("public/endless", ContentEncoding::Gzip), read.into())
        .await
        .unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ResourceUnavailable, "{error}");
    assert!(error.message().contains("public/endless"), "{error}");
    assert!(artifacts.ledger().is_empty());
    drop(writer.join());

    let (read, write) = pipe();
    let writer = slow(write, 8);
    let closing = std::thread::spawn(move || drop(writer.join()));
    artifacts
        .upload(upload("public/slow", ContentEncoding::Identity), read.into())
        .await
        .unwrap();
    closing.join().unwrap();
    assert_eq!(storage.stored.lock().unwrap()[0].1, b"piece".repeat(8));
}

#[tokio::test]
async fn a_file_that_changes_while_it_is_uploaded_is_an_error() {
    let scratch = tempfile::tempdir().unwrap();
    for (size, change) in [
        (10, 5_u64),
        (10, 20),
        (2_000_000, 1_000_000),
        (2_000_000, 3_000_000),
    ] {
        let file = file_of(&noise(size));
        let meddler = file.try_clone().unwrap();
        let storage = Storage {
            meddle: Some(Box::new(move || meddler.set_len(change).unwrap())),
            ..Storage::default()
        };
        let (artifacts, _) = artifacts(storage, scratch.path());
        let error = artifacts
            .upload(upload("public/x", ContentEncoding::Identity), file.into())
            .await
            .unwrap_err();
        assert_eq!(error.kind(), ErrorKind::TaskFailed, "{error}");
        assert!(artifacts.ledger().is_empty());
    }
}

#[tokio::test]
async fn refusals_have_the_kind_of_whoever_can_do_something_about_them() {
    let scratch = tempfile::tempdir().unwrap();
    let at = || "POST x".to_owned();
    let conflict = QueueError::Conflict {
        at: at(),
        message: String::new(),
    };
    let down = QueueError::Unavailable {
        at: at(),
        attempts: 9,
        message: String::new(),
    };
    let changed = QueueError::Content {
        at: at(),
        message: String::new(),
    };
    let forbidden = QueueError::Unauthorized {
        at: at(),
        status: 403,
        message: String::new(),
    };
    let cases = [
        (Some(conflict), None, ErrorKind::MalformedPayload),
        (Some(down.clone()), None, ErrorKind::ResourceUnavailable),
        (None, Some(down), ErrorKind::ResourceUnavailable),
        (None, Some(forbidden), ErrorKind::ResourceUnavailable),
        (None, Some(changed), ErrorKind::TaskFailed),
    ];
    for (refuse_create, refuse_upload, kind) in cases {
        let storage = Storage {
            refuse_create,
            refuse_upload,
            ..Storage::default()
        };
        let (artifacts, _) = artifacts(storage, scratch.path());
        let upload = upload("public/x", ContentEncoding::Identity);
        let error = artifacts.upload(upload, file_of(b"x").into()).await.unwrap_err();
        assert_eq!(error.kind(), kind, "{error}");
    }
}

#[tokio::test]
async fn no_artifact_outlives_its_task_and_pointers_carry_what_was_asked() {
    let scratch = tempfile::tempdir().unwrap();
    let (artifacts, storage) = artifacts(Storage::default(), scratch.path());
    for expires in ["2999-01-01T00:00:00.000Z", "soon"] {
        let upload = ArtifactUpload {
            expires: Some(expires.to_owned()),
            ..upload("public/x", ContentEncoding::Identity)
        };
        let error = artifacts.upload(upload, file_of(b"x").into()).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::MalformedPayload, "{error}");
    }
    let missing = |reason: &str| ArtifactPointer::Error {
        name: "public/y".to_owned(),
        reason: reason.to_owned(),
        message: "m".repeat(5000),
        expires: None,
    };
    artifacts.create(missing("file-missing-on-worker")).await.unwrap();
    let created = storage.created.lock().unwrap().pop().unwrap();
    let (name, ArtifactRequest::Error { reason, message, .. }) = created else {
        panic!("{created:?}");
    };
    assert_eq!(
        (name.as_str(), reason),
        ("public/y", ArtifactErrorReason::FileMissingOnWorker)
    );
    assert_eq!(message.len(), 4096);
    let error = artifacts.create(missing("bad-weather")).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::ContractViolation);
}

#[tokio::test]
async fn a_url_that_has_ended_is_asked_for_anew_but_not_for_ever() {
    let scratch = tempfile::tempdir().unwrap();
    let ended = || QueueError::Unauthorized {
        at: "PUT storage".to_owned(),
        status: 403,
        message: "Request has expired".to_owned(),
    };
    let token = || QueueError::Invalid {
        at: "PUT storage".to_owned(),
        code: String::new(),
        message: "400 Bad Request <Error><Code>ExpiredToken</Code></Error>".to_owned(),
    };
    // In memory, and read while it is sent.
    for length in [10, 3 << 20] {
        let content = vec![b'x'; length];
        for (refusals, stored) in [
            (vec![ended()], true),
            (vec![token(), ended()], true),
            (vec![ended(), ended(), ended()], false),
        ] {
            let asked = refusals.len() + usize::from(stored);
            let storage = Storage {
                refuse_at_first: Mutex::new(refusals),
                ..Storage::default()
            };
            let (artifacts, storage) = artifacts(storage, scratch.path());
            let outcome = artifacts
                .upload(
                    upload("public/a", ContentEncoding::Identity),
                    file_of(&content).into(),
                )
                .await;
            let created = storage.created.lock().unwrap();
            assert_eq!(created.len(), asked);
            assert!(created.iter().all(|request| *request == created[0]));
            match outcome {
                Ok(record) => {
                    assert!(stored && record.length == length as u64);
                    assert_eq!(storage.stored.lock().unwrap()[0].1, content);
                }
                Err(error) => {
                    assert!(!stored);
                    assert_eq!(error.kind(), ErrorKind::ResourceUnavailable);
                }
            }
            assert_eq!(artifacts.ledger().len(), usize::from(stored));
        }
    }
}
