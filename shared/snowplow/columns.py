"""The 131 columns of Snowplow's table `atomic.events`, in its order, and where the plain ones come from. Pure."""

from __future__ import annotations

from collections.abc import Mapping

_T, _I, _D, _B, _S, _J = "text", "bigint", "double", "boolean", "timestamp", "json"

_ORDER: tuple[tuple[str, str], ...] = (
    (_T, "app_id platform"), (_S, "etl_tstamp collector_tstamp dvce_created_tstamp"), (_T, "event event_id"), (_I, "txn_id"),
    (_T, "name_tracker v_tracker v_collector v_etl user_id user_ipaddress user_fingerprint domain_userid"),
    (_I, "domain_sessionidx"), (_T, "network_userid geo_country geo_region geo_city geo_zipcode"),
    (_D, "geo_latitude geo_longitude"), (_T, "geo_region_name ip_isp ip_organization ip_domain ip_netspeed page_url page_title"),
    (_T, "page_referrer page_urlscheme page_urlhost"), (_I, "page_urlport"), (_T, "page_urlpath page_urlquery page_urlfragment"),
    (_T, "refr_urlscheme refr_urlhost"), (_I, "refr_urlport"), (_T, "refr_urlpath refr_urlquery refr_urlfragment refr_medium"),
    (_T, "refr_source refr_term mkt_medium mkt_source mkt_term mkt_content mkt_campaign"), (_J, "contexts"),
    (_T, "se_category se_action se_label se_property"), (_D, "se_value"), (_J, "unstruct_event"),
    (_T, "tr_orderid tr_affiliation"), (_D, "tr_total tr_tax tr_shipping"), (_T, "tr_city tr_state tr_country"),
    (_T, "ti_orderid ti_sku ti_name ti_category"), (_D, "ti_price"), (_I, "ti_quantity"),
    (_I, "pp_xoffset_min pp_xoffset_max pp_yoffset_min pp_yoffset_max"),
    (_T, "useragent br_name br_family br_version br_type br_renderengine br_lang"),
    (_B, "br_features_pdf br_features_flash br_features_java br_features_director br_features_quicktime"),
    (_B, "br_features_realplayer br_features_windowsmedia br_features_gears br_features_silverlight br_cookies"),
    (_T, "br_colordepth"), (_I, "br_viewwidth br_viewheight"), (_T, "os_name os_family os_manufacturer os_timezone dvce_type"),
    (_B, "dvce_ismobile"), (_I, "dvce_screenwidth dvce_screenheight"), (_T, "doc_charset"), (_I, "doc_width doc_height"),
    (_T, "tr_currency"), (_D, "tr_total_base tr_tax_base tr_shipping_base"), (_T, "ti_currency"), (_D, "ti_price_base"),
    (_T, "base_currency geo_timezone mkt_clickid mkt_network etl_tags"), (_S, "dvce_sent_tstamp"), (_T, "refr_domain_userid"),
    (_S, "refr_dvce_tstamp"), (_J, "derived_contexts"), (_T, "domain_sessionid"), (_S, "derived_tstamp"),
    (_T, "event_vendor event_name event_format event_version event_fingerprint"), (_S, "true_tstamp"),
)  # fmt: skip

COLUMNS: Mapping[str, str] = {name: kind for kind, names in _ORDER for name in names.split()}
"""The kinds of the columns by name, in the order of the table. Kinds are those of the loader."""

OF_PARAMETERS: tuple[tuple[str, str], ...] = (
    ("aid", "app_id"), ("p", "platform"), ("tna", "name_tracker"), ("tv", "v_tracker"), ("fp", "user_fingerprint"),
    ("nuid", "network_userid"), ("page", "page_title"), ("lang", "br_lang"), ("cd", "br_colordepth"), ("tz", "os_timezone"),
    ("cs", "doc_charset"), ("se_ca", "se_category"), ("se_ac", "se_action"), ("se_la", "se_label"), ("se_pr", "se_property"),
    ("ev_ca", "se_category"), ("ev_ac", "se_action"), ("ev_la", "se_label"), ("ev_pr", "se_property"), ("tr_id", "tr_orderid"),
    ("tr_af", "tr_affiliation"), ("tr_ci", "tr_city"), ("tr_st", "tr_state"), ("tr_co", "tr_country"), ("tr_cu", "tr_currency"),
    ("ti_id", "ti_orderid"), ("ti_sk", "ti_sku"), ("ti_na", "ti_name"), ("ti_nm", "ti_name"), ("ti_ca", "ti_category"),
    ("ti_cu", "ti_currency"), ("url", "page_url"), ("refr", "page_referrer"),
    ("tid", "txn_id"), ("vid", "domain_sessionidx"), ("pp_mix", "pp_xoffset_min"), ("pp_max", "pp_xoffset_max"),
    ("pp_miy", "pp_yoffset_min"), ("pp_may", "pp_yoffset_max"), ("ti_qu", "ti_quantity"),
    ("se_va", "se_value"), ("ev_va", "se_value"), ("tr_tt", "tr_total"), ("tr_tx", "tr_tax"), ("tr_sh", "tr_shipping"),
    ("ti_pr", "ti_price"), ("sid", "domain_sessionid"),
    ("f_pdf", "br_features_pdf"), ("f_fla", "br_features_flash"), ("f_java", "br_features_java"), ("f_dir", "br_features_director"),
    ("f_qt", "br_features_quicktime"), ("f_realp", "br_features_realplayer"), ("f_wma", "br_features_windowsmedia"),
    ("f_gears", "br_features_gears"), ("f_ag", "br_features_silverlight"), ("cookie", "br_cookies"),
    ("dtm", "dvce_created_tstamp"), ("stm", "dvce_sent_tstamp"), ("ttm", "true_tstamp"),
)  # fmt: skip
"""Parameters and the columns that hold them."""

SIZES = {
    "res": ("dvce_screenwidth", "dvce_screenheight"),
    "vp": ("br_viewwidth", "br_viewheight"),
    "ds": ("doc_width", "doc_height"),
}
"""Parameters such as `1920x1080`."""

OF_PLACE = {
    "country": "geo_country", "region": "geo_region", "city": "geo_city", "postalCode": "geo_zipcode", "latitude": "geo_latitude",
    "longitude": "geo_longitude", "regionName": "geo_region_name", "timezone": "geo_timezone", "organization": "ip_organization",
}  # fmt: skip
"""Facts of the edge about an address."""
