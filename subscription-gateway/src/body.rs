//! A response's body, watched to its end.

use std::fmt;
use std::pin::Pin;
use std::task::{Context, Poll, ready};

use bytes::Bytes;
use http_body::{Body, Frame, SizeHint};
use pin_project_lite::pin_project;

use crate::usage::Usage;

pin_project! {
    /// The body of an answer: the service's own, or the gateway's.
    ///
    /// The usage event is emitted before the last frame is handed over, or when the body is dropped before its end.
    pub struct GatewayBody<B> {
        #[pin]
        kind: Kind<B>,
        report: Report,
    }
}

pin_project! {
    #[project = KindProjected]
    enum Kind<B> {
        Service { #[pin] body: B },
        Own { bytes: Option<Bytes> },
    }
}

/// Reports the request once.
struct Report {
    usage: Option<Box<Usage>>,
    status: u16,
    bytes: u64,
}

impl Report {
    fn now(&mut self) {
        if let Some(usage) = self.usage.take() {
            usage.report(self.status, self.bytes);
        }
    }
}

impl Drop for Report {
    fn drop(&mut self) {
        self.now();
    }
}

impl<B: Body<Data = Bytes>> GatewayBody<B> {
    /// The body of a service's answer to a request that is to be reported.
    pub(crate) fn service(body: B, usage: Option<Usage>, status: u16) -> Self {
        let mut report = Report { usage: usage.map(Box::new), status, bytes: 0 };
        if body.is_end_stream() {
            report.now();
        }
        Self { kind: Kind::Service { body }, report }
    }

    /// The gateway's own answer, reported at once.
    pub(crate) fn own(bytes: Bytes, usage: Option<Usage>, status: u16) -> Self {
        let mut report = Report { usage: usage.map(Box::new), status, bytes: bytes.len() as u64 };
        report.now();
        Self { kind: Kind::Own { bytes: Some(bytes).filter(|bytes| !bytes.is_empty()) }, report }
    }
}

impl<B: Body<Data = Bytes>> Body for GatewayBody<B> {
    type Data = Bytes;
    type Error = B::Error;

    fn poll_frame(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Result<Frame<Bytes>, B::Error>>> {
        let this = self.project();
        let mut body = match this.kind.project() {
            KindProjected::Service { body } => body,
            KindProjected::Own { bytes } => return Poll::Ready(bytes.take().map(|bytes| Ok(Frame::data(bytes)))),
        };
        let frame = ready!(body.as_mut().poll_frame(context));
        if let Some(Ok(frame)) = &frame {
            this.report.bytes += frame.data_ref().map_or(0, |data| data.len() as u64);
        }
        let more = matches!(&frame, Some(Ok(frame)) if !frame.is_trailers());
        if !more || body.is_end_stream() || body.size_hint().exact() == Some(0) {
            this.report.now();
        }
        Poll::Ready(frame)
    }

    fn is_end_stream(&self) -> bool {
        match &self.kind {
            Kind::Service { body } => body.is_end_stream(),
            Kind::Own { bytes } => bytes.is_none(),
        }
    }

    fn size_hint(&self) -> SizeHint {
        match &self.kind {
            Kind::Service { body } => body.size_hint(),
            Kind::Own { bytes } => SizeHint::with_exact(bytes.as_ref().map_or(0, |bytes| bytes.len() as u64)),
        }
    }
}

impl<B> fmt::Debug for GatewayBody<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("GatewayBody").field("bytes", &self.report.bytes).finish_non_exhaustive()
    }
}
