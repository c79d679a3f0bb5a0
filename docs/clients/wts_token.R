# Tokens of the workspace token service, for a notebook or a job. Copy this file; it needs jsonlite and curl.
#
#   source("wts_token.R")
#   httr::GET(url, httr::add_headers(Authorization = wts_bearer("files.example.org", url)))
#
# It reads the file that a sidecar or `wts exec` keeps valid (BEARER_TOKEN_FILE, or /var/run/wts/token). Where there is
# none, or an audience or a provider is named, it asks the service itself (WTS_URL), proving itself by WTS_PROOF_FILE
# where that is set, else by its address. Where you have to log in first, the error says where; a notebook shows a button.

# wts_token is a token as a string. `expires` is the life that is wanted, in seconds.
wts_token <- function(audience = NULL, idp = NULL, expires = 600, scope = NULL) {
  path <- Sys.getenv("BEARER_TOKEN_FILE", "/var/run/wts/token")
  if (is.null(audience) && is.null(idp) && file.exists(path)) {
    return(trimws(paste(readLines(path, warn = FALSE), collapse = "")))
  }
  url <- Sys.getenv("WTS_URL")
  if (url == "") {
    stop("neither BEARER_TOKEN_FILE nor WTS_URL leads to a token")
  }
  wanted <- Filter(Negate(is.null), list(audience = audience, idp = idp, expires = format(as.integer(expires)), scope = scope))
  query <- paste(names(wanted), vapply(wanted, utils::URLencode, "", reserved = TRUE), sep = "=", collapse = "&")
  handle <- curl::new_handle(timeout = 30, followlocation = FALSE)
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
    if (!is.null(body$connect_url)) {
      .wts_show_login(body$connect_url)
      said <- paste0(said, ". Log in at ", body$connect_url)
    }
    stop("wts answered ", answer$status_code, ": ", if (is.null(said)) "no reason given" else said)
  }
  body$token
}

# wts_bearer is the value of the Authorization header for an address, whose host has to be one of those that are named.
wts_bearer <- function(hosts, url, ...) {
  parts <- regmatches(url, regexec("^(https?)://([^/?#]*@)?([^/?#]+)", url))[[1]]
  here <- length(parts) == 4 && grepl("^(localhost|127\\.0\\.0\\.1|\\[::1\\])(:|$)", parts[4])
  if (length(parts) != 4 || !(tolower(parts[4]) %in% tolower(hosts)) || (parts[2] != "https" && !here)) {
    stop("the token is not for ", url)
  }
  paste("Bearer", wts_token(...))
}

# .wts_show_login shows a button in a notebook with an R kernel; it does nothing elsewhere.
.wts_show_login <- function(address) {
  if (!grepl("^https?://", address) || !isTRUE(getOption("jupyter.in_kernel")) || !requireNamespace("IRdisplay", quietly = TRUE)) {
    return(invisible())
  }
  escaped <- gsub('"', "&quot;", gsub("<", "&lt;", gsub("&", "&amp;", address)))
  style <- "display:inline-block;padding:.5em 1em;border-radius:4px;background:#1a5fb4;color:#fff;text-decoration:none"
  IRdisplay::display_html(sprintf('<a href="%s" target="_blank" rel="noopener" style="%s">Log in to go on</a>', escaped, style))
}
