"""The guestbook with its count of words as a long task."""

import guestbook

import longtask


class Report(longtask.LongRunningTaskHandler):
    """Counts the words of a volume."""

    parameters = ("volume",)

    def execute_task(self, parameters):
        """Count them."""
        if parameters["volume"] not in guestbook.VOLUMES:
            raise longtask.UserError(f"There is no volume {parameters['volume']}.")
        return guestbook.count_words(parameters["volume"], self.log_progress)


app = longtask.mount(guestbook.app, {"/report": Report, "/reports": longtask.ListHandler})
