# A token of the workspace token service, for a notebook or a job. Copy this file; it needs jsonlite and
# curl.
#
#   source("wts_token.R")
#   httr::GET(url, httr::add_headers(Authorization = paste("Bearer", wts_token())))
#
# It reads the file that a sidecar keeps fresh (BEARER_TOKEN_FILE, or /var/run/wts/token); without one it
# asks the service itself (WTS_URL), proving itself by WTS_PROOF_FILE where that is set, else by its address.

wts_token <- function(audience = NULL, idp = NULL, expires = 600) {
  path <- Sys.getenv("BEARER_TOKEN_FILE", "/var/run/wts/token")
  if (is.null(audience) && is.null(idp) && file.exists(path)) {
    return(trimws(paste(readLines(path, warn = FALSE), collapse = "")))
  }
  url <- Sys.getenv("WTS_URL")
  if (url == "") {
    stop("neither BEARER_TOKEN_FILE nor WTS_URL leads to a token")
  }
  wanted <- Filter(Negate(is.null), list(audience = audience, idp = idp, expires = format(as.integer(expires))))
  query <- paste(names(wanted), vapply(wanted, utils::URLencode, "", reserved = TRUE), sep = "=", collapse = "&")
  handle <- curl::new_handle(timeout = 30)
  headers <- list(Accept = "application/json")
  proof <- Sys.getenv("WTS_PROOF_FILE")
  if (proof != "") {
    headers$Authorization <- paste("Bearer", trimws(paste(readLines(proof, warn = FALSE), collapse = "")))
  }
  do.call(curl::handle_setheaders, c(list(handle), headers))
  answer <- curl::curl_fetch_memory(paste0(sub("/+$", "", url), "/token?", query), handle)
  body <- tryCatch(jsonlite::fromJSON(rawToChar(answer$content)), error = function(...) list())
  if (answer$status_code != 200 || is.null(body$token)) {
    said <- if (!is.null(body$message)) body$message else body$error
    stop("wts answered ", answer$status_code, ": ", if (is.null(said)) "no reason given" else said)
  }
  body$token
}
