//! Resources that answer some methods, and refuse the others in the listener's own words.

use actix_web::{FromRequest, Handler, Resource, Responder, guard, web};

/// The `Allow` header of a [`readable`] resource.
pub(crate) const READ: &str = "GET, HEAD";
/// The `Allow` header of a [`postable`] resource.
pub(crate) const POST: &str = "POST";

/// A resource that is read by GET, or by HEAD for its head alone; `refuse` answers every other method.
pub(crate) fn readable<F, Args, R, Refused>(path: &str, show: F, refuse: R) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
    R: Handler<Refused>,
    Refused: FromRequest + 'static,
    R::Output: Responder + 'static,
{
    let reads = guard::Any(guard::Get()).or(guard::Head());
    web::resource(path).route(web::route().guard(reads).to(show)).default_service(web::to(refuse))
}

/// A resource that does something when it is posted to; `refuse` answers every other method.
pub(crate) fn postable<F, Args, R, Refused>(path: &str, act: F, refuse: R) -> Resource
where
    F: Handler<Args>,
    Args: FromRequest + 'static,
    F::Output: Responder + 'static,
    R: Handler<Refused>,
    Refused: FromRequest + 'static,
    R::Output: Responder + 'static,
{
    web::resource(path).route(web::post().to(act)).default_service(web::to(refuse))
}
