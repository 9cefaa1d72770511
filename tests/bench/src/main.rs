//! quick
use std::time::Instant;
use std::path::PathBuf;
#[tokio::main]
async fn main() {
    let d = tempfile::tempdir().unwrap();
    let loader = tcw_host::library::Loader::new(d.path(), tcw_host::library::Diagnostics::start());
    tcw_abi::runtime::adopt(tokio::runtime::Handle::current());
    let t = Instant::now();
    let lib = loader.load(&PathBuf::from(std::env::args().nth(1).unwrap())).unwrap();
    println!("load {:?}", t.elapsed());
    let p = lib.root.engine_provider().await.unwrap();
    // a call with a trivial answer
    let mut times = Vec::new();
    let _ = p;
    let h = tokio::spawn(async move {
    for _ in 0..20000 { let t = Instant::now(); let _ = lib.root.plugin_provider(7).await; times.push(t.elapsed()); }
    times.sort(); println!("p50 {:?} p90 {:?}", times[10000], times[18000]);
    times.clear();
    for _ in 0..500 { tokio::time::sleep(std::time::Duration::from_millis(2)).await; let t = Instant::now(); let _ = lib.root.plugin_provider(7).await; times.push(t.elapsed()); }
    times.sort(); println!("idle p50 {:?} p90 {:?}", times[250], times[450]);
    });
    h.await.unwrap();
    // yardstick: two threads
    let (tx, rx) = std::sync::mpsc::channel::<()>(); let (tx2, rx2) = std::sync::mpsc::channel::<()>();
    std::thread::spawn(move || { while rx.recv().is_ok() { if tx2.send(()).is_err() {break} } });
    let mut times = Vec::new();
    for _ in 0..20000 { let t = Instant::now(); tx.send(()).unwrap(); rx2.recv().unwrap(); times.push(t.elapsed()); }
    times.sort(); println!("pingpong p50 {:?} p90 {:?}", times[10000], times[18000]);
    times.clear();
    for _ in 0..500 { std::thread::sleep(std::time::Duration::from_millis(2)); let t = Instant::now(); tx.send(()).unwrap(); rx2.recv().unwrap(); times.push(t.elapsed()); }
    times.sort(); println!("pingpong idle p50 {:?} p90 {:?}", times[250], times[450]);
}
